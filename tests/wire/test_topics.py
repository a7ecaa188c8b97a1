"""Topic names and settings, and event ids."""

from wire import MAX_RECORD_BYTES, Topics, event_id, specs


def test_all_five_topics_have_one_partition_count():
    names = [(spec.name, spec.partitions) for spec in specs(Topics(), 12)]
    assert names == [
        ("audio.chunks", 12),
        ("transcripts.final", 12),
        ("transcripts.partial", 12),
        ("audio.rejected", 12),
        ("trunkline.streams", 12),
    ]


def test_the_stream_table_is_compacted_and_nothing_else_is():
    policies = {spec.name: spec.config["cleanup.policy"] for spec in specs(Topics(), 1)}
    assert [name for name, policy in policies.items() if policy == "compact"] == ["trunkline.streams"]


def test_the_audio_topic_takes_the_largest_record():
    audio = specs(Topics(audio="calls"), 1)[0]
    assert audio.name == "calls"
    assert int(audio.config["max.message.bytes"]) > MAX_RECORD_BYTES


def test_replication_of_three_waits_for_two_copies():
    assert {spec.config["min.insync.replicas"] for spec in specs(Topics(), 1, replication=3)} == {"2"}
    assert {spec.config["min.insync.replicas"] for spec in specs(Topics(), 1)} == {"1"}


def test_an_event_id_names_stream_partition_offset_and_number():
    assert event_id("call-7/0", 3, 1041, 2) == "call-7/0/3-1041/2"
