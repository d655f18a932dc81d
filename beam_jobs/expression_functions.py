"""The functions that an expression may call: each gives the same for the same row, on any day and machine.

By what they are about. Left out is what asks for the time or the machine, depends on other rows, or prints.
"""

_OPERATORS = """
+ - * / // % ** ^ & | << >> ~ ! @ || = != < <= > >= ~~ ~~* !~~ !~~* ~~~ ^@ && @> <@ -> ->>
"""
_NUMBERS = """
abs acos acosh add asin asinh atan atan2 atanh bit_count cbrt ceil ceiling cos cosh cot degrees divide even exp
factorial floor fmod gamma gcd greatest isfinite isinf isnan lcm least lgamma ln log log10 log2 mod multiply
pi pow power radians round round_even sign sin sinh sqrt subtract tan tanh trunc xor
"""
_TEXTS = """
ascii base64 bar chr char_length concat concat_ws contains damerau_levenshtein decode encode ends_with format
from_base64 from_hex hamming hex ilike_escape instr jaccard jaro_similarity jaro_winkler_similarity lcase left
len length length_grapheme levenshtein like_escape lower lpad ltrim md5 nfc_normalize not_ilike_escape
not_like_escape octet_length ord overlay parse_dirname parse_dirpath parse_filename parse_path position prefix
printf regexp_escape regexp_extract regexp_extract_all regexp_full_match regexp_matches regexp_replace
regexp_split_to_array repeat replace reverse right rpad rtrim sha1 sha256 split split_part starts_with
str_split string_split strip_accents strlen strpos substr substring suffix to_base64 to_hex translate trim
ucase unhex unicode upper url_decode url_encode
"""
_TIMES = """
century date_add date_diff date_part date_sub date_trunc datediff datepart datesub datetrunc day dayname
dayofmonth dayofweek dayofyear decade epoch epoch_ms epoch_ns epoch_us hour isodow isoyear last_day make_date
make_time make_timestamp microsecond millisecond minute month monthname quarter second strftime strptime
time_bucket to_days to_hours to_microseconds to_milliseconds to_minutes to_months to_seconds to_timestamp
to_weeks to_years try_strptime week weekday weekofyear year yearweek
"""
_NESTED = """
array_contains array_extract array_length array_position array_slice array_to_string element_at filter flatten
list_append list_apply list_avg list_cat list_concat list_contains list_count list_distinct list_element
list_extract list_filter list_first list_has list_has_all list_has_any list_indexof list_last list_max
list_median list_min list_position list_prepend list_product list_reduce list_resize list_reverse
list_reverse_sort list_select list_slice list_sort list_sum list_transform list_unique list_value list_where
list_zip range row struct_concat struct_extract struct_insert struct_keys struct_pack struct_values
json_array_length json_exists json_extract json_extract_string json_keys json_type json_valid json_value
if ifnull nullif typeof cardinality map_contains map_extract map_extract_value map_keys map_values
"""
FUNCTIONS = frozenset("".join([_OPERATORS, _NUMBERS, _TEXTS, _TIMES, _NESTED]).split())
