"""What the suites expect of a sender, by their numbers, and what of it cannot be asked of one that does not scrape."""

from collections.abc import Mapping
from typing import Final

import pytest

MARK: Final = "sender"

_V1: Final = (
    "Counter Gauge Histogram Summary Up Invalid JobLabel InstanceLabel SortedLabels RepeatedLabels EmptyLabels "
    "NameLabel HonorLabels Staleness Timestamp Headers Ordering Retries500 Retries400"
)
V1: Final[Mapping[int, tuple[str, ...]]] = {number: (name,) for number, name in enumerate(_V1.split(), start=1)}
"""The cases of remote-write §5.4."""

_V2: Final[Mapping[int, str]] = {
    1: "content_type_protobuf content_type_with_proto_param content_encoding_snappy version_header_present "
    "version_header_value user_agent_present snappy_block_format protobuf_parseable",
    2: "post",
    3: "label_lexicographic_ordering metric_name_label_present metric_name_format_valid label_name_format_valid "
    "no_duplicate_label_names label_names_not_empty label_values_may_be_empty reserved_label_prefix "
    "unicode_in_label_values special_chars_in_label_values very_long_label_names very_long_label_values "
    "many_labels_per_series",
    4: "empty_string_at_index_zero string_deduplication labels_refs_valid_indices labels_refs_even_length",
    5: "few_symbols",
    6: "float integer zero negative positive_infinity negative_infinity nan timestamp_milliseconds_format "
    "timestamp_recent multiple_samples_same_series large_float small_float scientific_notation "
    "precision_preservation job_instance_labels_present",
    7: "ordering",
    8: "timestamp_int64_milliseconds timestamp_ordering_within_series start_timestamp_for_counters "
    "start_timestamp_for_histograms start_timestamp_zero_handling timestamp_precision timestamp_future_values "
    "start_timestamp_before_sample_timestamp",
    9: "type_for_counter type_for_gauge type_for_histogram type_for_summary help_text unit help_with_newlines "
    "help_with_special_chars help_refs_valid consistent_across_series empty_help_allowed",
    10: "with_trace_id with_span_id value_valid timestamp_valid labels_valid_refs custom_labels on_histogram "
    "labels_even_length multiple_exemplars_per_series",
    11: "structure count_present sum_present buckets_ordered positive_buckets negative_buckets zero_bucket schema "
    "timestamp no_mixed_with_samples empty_buckets large_counts",
    12: "no_retry_on_400 no_retry_on_401 no_retry_on_404 no_retry_on_413 may_retry_on_429 retry_on_500 retry_on_502 "
    "retry_on_503 retry_on_504",
    13: "exponential_backoff_on_retries backoff_required backoff_max_delay backoff_with_jitter",
    14: "fallback_on_415_unsupported_media_type retry_with_different_version fallback_header_changes "
    "accept_success_after_fallback persistent_fallback_choice",
    15: "no_fallback_on_2xx",
    16: "ignore_response_body_on_success process_written_count_headers handle_partial_write_response "
    "handle_missing_written_headers log_error_messages_verbatim handle_large_error_body handle_204_no_content "
    "handle_200_ok",
    17: "content_type_negotiation",
    18: "connection_refused timeout partial_write malformed_response sender_continues_after_errors "
    "invalid_status_code empty_response large_error_response",
    19: "dns_failure invalid_scheme",
    20: "multiple_series_per_request batch_size_reasonable handles_varying_cardinality efficient_symbol_reuse "
    "metadata_batching",
    21: "concurrent_requests",
    22: "samples_with_metadata samples_with_exemplars histogram_with_metadata_and_exemplars multiple_metric_types "
    "high_cardinality_labels complete_metric_family mixed_labels_and_metadata real_world_scenario",
    23: "empty_scrape huge_label_values unicode_in_labels many_timeseries high_cardinality very_long_metric_name "
    "special_float_combinations zero_timestamp future_timestamp metric_name_with_colons stale_marker "
    "mixed_sample_and_histogram_families",
    24: "many_series",
    25: "remote_write_1_compatibility remote_write_1_configuration",
}
V2: Final[Mapping[int, tuple[str, ...]]] = {number: tuple(names.split()) for number, names in _V2.items()}
"""The cases of remote-write §5.5, by the number of their test."""

SUITES: Final = {1: V1, 2: V2}
"""Both, by the version of Remote-Write."""

_SCRAPED: Final = "is about a page that is scraped, or what scraping adds"
_ONLY_GROWS: Final = "counts and durations are finite and only grow"
_NO_SUMMARY: Final = "there are no summaries"
_OUR_HELP: Final = "help is ours, of one line"
_OUR_NAMES: Final = "names of metrics are ours, but for that of host info"

NOT_APPLICABLE: Final[Mapping[tuple[int, int, str], str]] = {
    (1, 4, "Summary"): _NO_SUMMARY,
    (1, 5, "Up"): _SCRAPED,
    (1, 6, "Invalid"): _SCRAPED,
    (1, 7, "JobLabel"): _SCRAPED,
    (1, 8, "InstanceLabel"): _SCRAPED,
    (1, 13, "HonorLabels"): _SCRAPED,
    (2, 6, "negative"): _ONLY_GROWS,
    (2, 6, "positive_infinity"): _ONLY_GROWS,
    (2, 6, "negative_infinity"): _ONLY_GROWS,
    (2, 6, "nan"): _ONLY_GROWS,
    (2, 6, "small_float"): _ONLY_GROWS,
    (2, 6, "scientific_notation"): _SCRAPED,
    (2, 6, "job_instance_labels_present"): _SCRAPED,
    (2, 8, "timestamp_future_values"): _SCRAPED,
    (2, 9, "type_for_summary"): _NO_SUMMARY,
    (2, 9, "help_with_newlines"): _OUR_HELP,
    (2, 9, "help_with_special_chars"): _OUR_HELP,
    (2, 9, "empty_help_allowed"): _OUR_HELP,
    (2, 10, "with_span_id"): "an exemplar leads to a trace, its spans are not kept",
    (2, 11, "negative_buckets"): _ONLY_GROWS,
    (2, 23, "empty_scrape"): _SCRAPED,
    (2, 23, "very_long_metric_name"): _OUR_NAMES,
    (2, 23, "special_float_combinations"): _ONLY_GROWS,
    (2, 23, "zero_timestamp"): _SCRAPED,
    (2, 23, "future_timestamp"): _SCRAPED,
    (2, 23, "metric_name_with_colons"): _OUR_NAMES,
}
"""Cases that nothing here can meet, and why."""


def expects(version: int, number: int, *names: str) -> pytest.MarkDecorator:
    """Say which cases a test is; without names all of that number.

    Args:
        version: of Remote-Write: 1 for §5.4, 2 for §5.5.
        number: of the expectation there.
        names: of cases.
    """
    known = SUITES[version][number]
    if not set(names) <= set(known):
        raise ValueError(f"not among {known}: {names}")
    return getattr(pytest.mark, MARK)(version, number, names or known)  # type: ignore[no-any-return]
