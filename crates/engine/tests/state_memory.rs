//! The store in memory keeps the contract of a state store.
#![cfg(feature = "conformance")]
#![allow(clippy::unwrap_used)] // a test file

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use email_router_engine::StateStore;
use email_router_engine::conformance::{self, Stores};
use email_router_engine::state_memory::MemoryState;

#[derive(Debug, Default)]
struct Memory(Mutex<HashMap<String, MemoryState>>);

impl Stores for Memory {
    fn open(&self, name: &str) -> Arc<dyn StateStore> {
        Arc::new(self.0.lock().unwrap().entry(name.to_owned()).or_default().clone())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conformance() {
    conformance::run(&Memory::default()).await;
}
