"""The `metadata.yaml` of a rosbag2 bag, version 9 (ROS 2 Jazzy)."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from irevla_policy.recording.mcap_records import Channel
from irevla_policy.recording.storage import Offer, Topic

VERSION = 9
# rmw's "for ever", as rosbag2 writes it
_INFINITE = {"sec": 9223372036, "nsec": 854775807}


def offers_as_plain(offers: Sequence[Offer]) -> list[dict[str, Any]]:
    """Offered quality of service as rosbag2 writes it from version 9 on."""
    return [
        {
            "history": "keep_last",
            "depth": offer.depth,
            "reliability": "reliable" if offer.reliable else "best_effort",
            "durability": "transient_local" if offer.latched else "volatile",
            "deadline": dict(_INFINITE),
            "lifespan": dict(_INFINITE),
            "liveliness": "automatic",
            "liveliness_lease_duration": dict(_INFINITE),
            "avoid_ros_namespace_conventions": False,
        }
        for offer in offers
    ]


def offers_as_text(offers: Sequence[Offer]) -> str:
    """The same, as the text that a channel of an MCAP file carries."""
    return _dump(offers_as_plain(offers)).strip()


@functools.cache  # the same few texts in every bag, and YAML takes longer than all else that is read to open one
def offers_from_text(text: str) -> tuple[Offer, ...]:
    """The inverse of `offers_as_text`; the usual offer where the text is none of version 9."""
    try:
        values = yaml.safe_load(text) or []
        return tuple(
            Offer(
                int(value["depth"]) or 10, value["reliability"] == "reliable", value["durability"] == "transient_local"
            )
            for value in values
        ) or (Offer(),)
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        return (Offer(),)


def offers_of(channel: Channel) -> tuple[Offer, ...]:
    """What a channel of an MCAP file says of its publishers' offers; the usual one where it says nothing."""
    return offers_from_text(channel.metadata.get("offered_qos_profiles", ""))


def information(
    file: str,
    topics: Sequence[Topic],
    hashes: Mapping[str, str],
    *,
    start: int,
    end: int,
    custom: Mapping[str, str],
) -> dict[str, Any]:
    """What rosbag2 stores about a bag of one MCAP file.

    Args:
        file: Name of the file.
        topics: Topics with their counts.
        hashes: Message type to type description hash.
        start: Smallest log time, ns.
        end: Largest log time, ns.
        custom: Texts for `custom_data`.
    """
    count = sum(topic.count for topic in topics)
    times = {"duration": {"nanoseconds": end - start}, "starting_time": {"nanoseconds_since_epoch": start}}
    return {
        "version": VERSION,
        "storage_identifier": "mcap",
        **times,
        "message_count": count,
        "topics_with_message_count": [
            {
                "topic_metadata": {
                    "name": topic.name,
                    "type": topic.type,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": offers_as_plain(topic.offers),
                    "type_description_hash": hashes[topic.type],
                },
                "message_count": topic.count,
            }
            for topic in topics
        ],
        "compression_format": "",
        "compression_mode": "",
        "relative_file_paths": [file],
        "files": [{"path": file, **times, "message_count": count}],
        "custom_data": dict(custom) or None,
        "ros_distro": os.environ.get("ROS_DISTRO", "jazzy"),
    }


def as_file(values: Mapping[str, Any]) -> str:
    """The content of `metadata.yaml`."""
    return _dump({"rosbag2_bagfile_information": dict(values)})


def as_record(values: Mapping[str, Any]) -> str:
    """The text that rosbag2 also puts into the MCAP file (metadata record `rosbag2`, key `serialized_metadata`)."""
    return _dump(dict(values)).strip()


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _dump(value: Any) -> str:
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=1000))
