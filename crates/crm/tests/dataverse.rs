//! Dataverse where the router decides passes the suite of every CRM, with and without a note column.
#![cfg(all(feature = "conformance", feature = "dataverse"))]

mod dataverse_support;

use dataverse_support::World;
use email_router_crm::conformance::run;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_passes_the_suite() {
    run(World::connected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_passes_the_suite_with_a_note_column() {
    run(|| async {
        let world = World::new().await;
        world.change(|settings| settings.note_column = Some("new_routernote".to_owned()));
        world.reconnect().await.unwrap();
        world
    })
    .await;
}
