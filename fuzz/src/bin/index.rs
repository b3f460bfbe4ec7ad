//! The index of the log over a file that anybody may have written.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| walcast_fuzz::index_file::check(input));
