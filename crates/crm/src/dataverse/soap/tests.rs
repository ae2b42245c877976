use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::dataverse::web_api::fault::code;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/dataverse/soap")
}

fn read(path: &Path) -> Vec<u8> {
    email_router_model::read_file_capped(path, 16 << 20).unwrap()
}

fn document(name: &str) -> Vec<u8> {
    read(&folder().join(format!("{name}.xml")))
}

fn answer(name: &str) -> tree::Node {
    response::body(&document(name)).unwrap()
}

fn results(name: &str) -> Value {
    Value::Object(response::results(&answer(name)).unwrap())
}

#[test]
fn results_of_messages() {
    assert_eq!(results("who_am_i")["OrganizationId"], "11111111-0000-4000-8000-000000000003");
    assert_eq!(results("check_incoming_email"), json!({ "ShouldDeliver": true, "ReasonCode": 2 }));
    assert_eq!(results("deliver_incoming_email")["EmailId"], "11111111-0000-4000-8000-000000000004");
    let handed_out = results("background_send_email");
    assert_eq!(handed_out["EntityCollection"][0]["statuscode"], 6);
    assert_eq!(handed_out["HasAttachments"], json!([false]));
    assert_eq!(response::created(&answer("create")), Some("11111111-0000-4000-8000-000000000004"));
}

#[test]
fn a_row_has_values_by_their_types() {
    let row = response::row(&answer("retrieve")).unwrap();
    let expected = json!({
        "emailid": "11111111-0000-4000-8000-000000000004", "activityid": "11111111-0000-4000-8000-000000000004",
        "subject": "Offer <1> & more\r", "statuscode": 6, "directioncode": true, "deliveryattempts": 2, "versionnumber": 4712,
        "modifiedon": "2014-02-10T23:38:29Z", "exchangerate": "1.0000000000", "revenue": "10.5000",
        "ownerid": { "id": "11111111-0000-4000-8000-000000000001", "table": "systemuser", "name": "Ann" },
        "sender.partyid": { "id": "11111111-0000-4000-8000-000000000005", "table": "queue", "name": null },
        "to": [{ "activitypartyid": "11111111-0000-4000-8000-000000000006" }],
    });
    assert_eq!(Value::Object(row.0), expected);
}

#[test]
fn a_page_says_how_to_go_on() {
    let page = response::page(&answer("retrieve_multiple")).unwrap();
    assert_eq!((page.rows.len(), page.more), (2, true));
    assert_eq!(
        page.cookie.as_deref(),
        Some("<cookie page=\"1\"><activityid last=\"{1}\" first=\"{0}\" /></cookie>")
    );
}

#[test]
fn faults_of_both_versions_of_soap() {
    for (name, status, number, words) in [
        ("fault_no_attribute", 400, Some(-2_147_217_149), "trackingtoken2"),
        ("fault_router_is_disabled", 400, Some(code::ROUTER_IS_DISABLED), "server-side"),
        ("fault_not_there", 404, Some(code::OBJECT_DOES_NOT_EXIST), "Does Not Exist"),
        ("fault_limit", 429, Some(code::SERVICE_PROTECTION[0]), "limit of 6000"),
        ("fault_internal", 500, None, "internal error"),
        ("fault_soap_11", 403, Some(code::PRIVILEGE_DENIED), "prvReadActivity"),
    ] {
        let got = fault(500, &document(name)).unwrap();
        assert_eq!((got.status, got.code), (status, number), "{name}");
        assert!(got.message.contains(words), "{name}: {got}");
        let wait = (name == "fault_limit").then_some(Duration::from_secs(90));
        assert_eq!(got.retry_after, wait, "{name}");
        // an error names the number in both forms
        if let Some(number) = number {
            let text = got.into_error("CRM x", "asking").to_string();
            assert!(
                text.contains(&number.to_string()) && text.contains(&format!("0x{number:08x}")),
                "{text}"
            );
        }
    }
    assert_eq!(fault(500, &document("create")), None);
    assert_eq!(fault(500, b"<html><title>Runtime Error</title></html>"), None);
}

/// Every answer of a folder is read: ours, and recorded ones where there are any.
#[test]
fn recorded_answers_are_answers() {
    let recorded = std::env::var_os("DATAVERSE_SOAP_RECORDED").map(PathBuf::from);
    let mut count = 0;
    for folder in std::iter::once(folder()).chain(recorded) {
        for file in fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            // answers of a token service are another protocol's
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.extension().is_none_or(|kind| kind != "xml") || name.starts_with("request_security") {
                continue;
            }
            let document = read(&path);
            // pieces of answers and requests are kept beside whole answers
            let text = String::from_utf8_lossy(&document);
            let is = |name| text.contains(name);
            if !is("Envelope") || !(is("Response") || is("Fault")) {
                continue;
            }
            assert!(is_answer(&document), "{}", path.display());
            count += 1;
        }
    }
    assert!(count >= 14, "{count}");
}

/// What a hostile server sends ends in an error, soon, and with no more memory than it has sent.
#[test]
fn hostile_answers() {
    let deep = "<a>".repeat(200_000);
    let laughs = "<!DOCTYPE a [<!ENTITY b \"bbbb\"><!ENTITY c \"&b;&b;\">]><s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\">&c;</s:Envelope>";
    let wide = format!("<a>{}</a>", "<b/>".repeat(4_000_001));
    for given in [&deep, laughs, wide.as_str(), "", "x", "<a", "<a></b>", "</a>", "<a>&#xFFFFFFFFFF;</a>"] {
        assert!(!is_answer(given.as_bytes()), "{}", &given[..given.len().min(80)]);
    }
    // half an answer is none
    let whole = document("retrieve");
    let end = whole.windows(13).rposition(|window| window == b"</s:Envelope>").unwrap() + 13;
    for cut in (0..end).step_by(7) {
        assert!(!is_answer(&whole[..cut]), "{cut}");
    }
    // a value of a type that is not what it says
    let text = String::from_utf8(document("check_incoming_email")).unwrap();
    let odd = text.replace(">2<", ">many<").replace("e:boolean", "e:unheardof");
    let results = response::results(&response::body(odd.as_bytes()).unwrap()).unwrap();
    assert_eq!(Value::Object(results), json!({ "ShouldDeliver": "true", "ReasonCode": "many" }));
}
