//! `email_router_fuzz::imap_answers` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| email_router_fuzz::imap_answers(data));
