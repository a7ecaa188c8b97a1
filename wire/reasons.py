"""Why a record is rejected: every machine-readable reason, with one sentence each.

A reason, once released, keeps its meaning. `FOUND_ALONE` is what `wire.codec` finds in one record by itself;
`FOUND_IN_STREAM` what the worker finds, which knows the stream, the model and the deployment.
"""

FOUND_ALONE: dict[str, str] = {
    "no_key": "The Kafka record has no key, or an empty one, so its stream is unknown.",
    "key_not_utf8": "The Kafka key is not valid UTF-8.",
    "key_too_long": "The Kafka key has more than 256 bytes.",
    "no_value": "The Kafka record has a null value.",
    "malformed": "The value is not exactly one MessagePack map with string keys within the size limits.",
    "unknown_version": "The field v is missing or not a version that this release reads.",
    "unknown_type": "The field type is missing or not one of this topic's types.",
    "missing_field": "A required field is absent.",
    "wrong_type": "A field has another MessagePack type than the contract says.",
    "out_of_range": "A number, a length or a count lies outside its limits.",
    "unknown_value": "A field that takes one of a few words holds another one.",
    "unknown_encoding": "The start's encoding is not one of the four that are known.",
    "unknown_sample_rate": "The start's sample rate is not one of those that are known.",
    "payload_empty": "The audio payload has no bytes.",
    "payload_too_large": "The payload has more than 1 MiB, or the whole record more than 64 KiB beyond that.",
}

FOUND_IN_STREAM: dict[str, str] = {
    "payload_alignment": "The payload is not a whole number of samples in the stream's encoding.",
    "payload_not_finite": "The float payload holds NaN or an infinity.",
    "foreign_nonce": "The record carries a nonce that is not the current start's: a second producer.",
    "not_started": "The stream of a flush or an end has sent neither a start nor audio, "
    "or audio carries the nonce of a start that did not come.",
    "after_end": "The stream has ended and no new start came before this record.",
    "position_out_of_range": "The position lies further ahead of the stream than the deployment allows.",
    "look_ahead_not_supported": "The start asks for a look-ahead that the loaded model does not have.",
    "decoder_not_supported": "The start asks for a decoder that the loaded model does not have.",
    "codec_not_available": "The Kafka batch is corrupt, or of a codec that is not installed; one for each offset.",
}

REASONS = FOUND_ALONE | FOUND_IN_STREAM
