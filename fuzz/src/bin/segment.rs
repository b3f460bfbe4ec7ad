//! Recovery, readers and tools over a segment file that anybody may have written.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| walcast_fuzz::segment::check(input));
