//! A forward mailbox from outside: configuration, routing, `explain`, `why`, quarantine.

use crate::support::{World, mail, maildir_config};

fn wrapper(subject: &str, parts: &str) -> String {
    format!(
        "From: Ann Lee <ann@example.com>\nTo: forward@example.com\nSubject: FW: {subject}\nMessage-ID: <fw-{subject}@example.com>\n\
         Date: Fri, 20 Nov 2026 10:00:00 +0000\nContent-Type: multipart/mixed; boundary=w\n\n--w\n\nsee attached\n{parts}--w--\n"
    )
}

#[test]
fn a_forward_mailbox_is_read_explained_and_emptied() {
    let config = maildir_config("", "").replace(
        "</Mailboxes>",
        "<ForwardMailbox><Name>Forward</Name><EmailAddress>forward@example.com</EmailAddress>\
         <DeleteMessagesAfterProcessing>true</DeleteMessagesAfterProcessing></ForwardMailbox></Mailboxes>",
    );
    let world = World::with(&config);
    world.people();
    world.run(["crm", "add", "mailbox", "name=Forward", "emailaddress=forward@example.com"]).ok();
    world.run(["crm", "set", "systemuser", "ann@example.com", "incomingemaildeliverymethod=3"]).ok();
    for address in ["ann@example.com", "support@example.com", "forward@example.com"] {
        for kind in ["new", "cur", "tmp"] {
            std::fs::create_dir_all(world.path("mail").join(address).join(kind)).unwrap();
        }
    }
    let original = mail("tom@example.net", "ann@example.com", "question");
    let good = wrapper("good", &format!("--w\nContent-Type: message/rfc822\n\n{original}"));
    let file = world.write("good.eml", &good);
    world
        .run(["explain", file.to_str().unwrap(), "--mailbox", "forward@example.com"])
        .ok()
        .says("the attached message: user \"Ann Lee\" accepts all messages")
        .says("question")
        .says("nothing was written");
    world.deliver("forward@example.com", "1", &good);
    world.deliver("forward@example.com", "2", &wrapper("bad", ""));
    // ann's own mailbox is not read: her mail comes by the forward mailbox, which is no fault
    world.run(["run", "--once", "--verbose"]).with_code(4).says("DELIVERED").says("QUARANTINE");
    world.run(["crm", "list", "email"]).ok().says("question");
    world.run(["why", "<question@example.net>"]).ok().says("attached message").says("AcceptAll (6)");
    world.run(["quarantine", "list"]).ok().says("no-attached-message");
    assert_eq!(
        world.names("mail/forward@example.com/new").len(),
        0,
        "emptied, the bad one into Undeliverable"
    );
}
