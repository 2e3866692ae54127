#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dfs_proto::fuzz::wire(bytes));
