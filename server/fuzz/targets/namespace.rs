#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| muster_fuzz::namespace::run(octets));
