//! What Microsoft Graph says, and messages that are taken apart for it.

use email_router_model::Headers;
use email_router_transport::graph::proto::page::Change;
use email_router_transport::graph::proto::{
    batch, compose, fault, header, json, link, page, resume, split, upload,
};
use url::Url;

/// Any bytes as each of the answers of Graph, and as a message to be handed over. Links lead nowhere but to the service, ids are never empty, a
/// header section holds as many fields as were told, each request of a batch has one answer, and a message that is split fits.
pub fn graph_answers(data: &[u8]) {
    let Ok(base) = Url::parse("https://graph.microsoft.com/v1.0") else { return };
    if let Ok(read) = page::read(&base, data) {
        for url in read.next.iter().chain(&read.delta) {
            assert_eq!(url.origin(), base.origin(), "a link to another place: {url}");
            assert!(url.path().starts_with("/v1.0/"), "{url}");
        }
        for change in &read.changes {
            let (Change::Present(id, _) | Change::Removed(id)) = change;
            let url = Url::parse(&format!("{base}/users/a/messages/{}/$value", link::segment(id)));
            let segments = url.ok().and_then(|url| url.path_segments().map(Iterator::count));
            assert!(!id.is_empty() && segments == Some(6), "{id:?} leaves its place");
        }
    }
    if let Ok(value) = json(data) {
        if let Some(section) = header::section(&value) {
            let headers = Headers::new(&section);
            assert_eq!(headers.as_bytes().len(), section.len(), "the header section ends early");
            let told = value["internetMessageHeaders"].as_array().map_or(0, Vec::len);
            assert!(headers.iter().count() <= told, "a field became two");
        }
        if let Ok(Some(at)) = upload::next_expected(&value, 1000) {
            assert!(at < 1000);
        }
    }
    for count in [1, 3] {
        assert!(
            batch::answers(data, count).is_ok_and(|a| a.len() == count)
                || batch::answers(data, count).is_err()
        );
    }
    let fault = fault::Fault::read(data);
    assert!(fault.request_id.is_some() || fault.words().len() <= data.len() * 4 + 8);
    if let Some((messages, delta)) = resume::read(&base, "a", data) {
        assert_eq!(delta.origin(), base.origin());
        if let Some(again) = resume::write(&base, "a", &messages, &delta) {
            assert_eq!(resume::read(&base, "a", &again), Some((messages, delta)));
        }
    }
    message(data);
}

fn message(data: &[u8]) {
    for address in compose::header_recipients(&Headers::new(data)) {
        assert!(address.contains('@') && !address.contains(['\r', '\n']), "{address:?}");
    }
    let without = compose::without_field(data, "Sender");
    assert!(without.len() <= data.len());
    for most in [0, data.len() / 2, data.len().saturating_sub(1)] {
        if let Some((skeleton, attachments)) = split::split(data, most) {
            assert!(skeleton.len() <= most && !attachments.is_empty());
            let content: usize = attachments.iter().map(|a| a.content.len()).sum();
            assert!(skeleton.len() + content <= data.len(), "more came out than went in");
        }
    }
}
