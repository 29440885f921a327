# The full ROS 2 Jazzy installation: ROS from apt by rosdep, the learning packages in a virtual environment.
#   docker build -t irevla .
#   docker run --rm -it --shm-size=1g irevla irevla doctor
FROM ros:jazzy

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV DEBIAN_FRONTEND=noninteractive
WORKDIR /irevla

# What rosdep knows; the manifests alone, so that an edited source file does not repeat it.
COPY src/irevla_msgs/package.xml src/irevla_msgs/package.xml
COPY src/irevla_policy/package.xml src/irevla_policy/package.xml
COPY src/irevla_trainer/package.xml src/irevla_trainer/package.xml
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libegl1 libgl1 libgl1-mesa-dri python3-venv \
    && rosdep update --rosdistro jazzy \
    && rosdep install --from-paths src --ignore-src --rosdistro jazzy --default-yes \
    && rm -rf /var/lib/apt/lists/*

# The learning packages; ROS and colcon come from apt. COLCON_IGNORE keeps colcon out of the environment's sources.
COPY requirements.txt .
RUN python3 -m venv --system-site-packages .venv \
    && touch .venv/COLCON_IGNORE \
    && grep -vE '^(ros|colcon)-' requirements.txt >/tmp/learning.txt \
    && .venv/bin/pip install --no-cache-dir -r /tmp/learning.txt

COPY . .
# Run by the environment's Python, colcon gives that interpreter to the nodes' scripts.
RUN source /opt/ros/jazzy/setup.bash \
    && .venv/bin/python -m colcon build --symlink-install \
    && ln -s /irevla/install/irevla_trainer/lib/irevla_trainer/irevla /usr/local/bin/irevla \
    && printf '%s\n' '#!/bin/bash' 'source /opt/ros/jazzy/setup.bash' 'source /irevla/install/setup.bash' 'exec "$@"' \
        >/entrypoint.sh \
    && chmod +x /entrypoint.sh

# apt's cv_bridge is built for numpy 1, the learning packages bring numpy 2.
ENV IREVLA_IMAGE_BACKEND=numpy \
    MUJOCO_GL=egl

ENTRYPOINT ["/entrypoint.sh"]
CMD ["ros2", "launch", "irevla_policy", "sim.launch.py"]
