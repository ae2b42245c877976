//! `mirror`: what is kept of organizations on servers.

use std::net::TcpListener;

use crate::support::{World, maildir_config};

#[test]
fn an_embedded_crm_has_no_mirror() {
    let world = World::maildir();
    world.run(["mirror", "size"]).with_code(1).complains("no deployment of the configuration is on a server");
    world.run(["mirror", "verify", "--deployment", "crm"]).with_code(1).complains("needs no mirror");
    world
        .run(["mirror", "rebuild", "--deployment", "no"])
        .with_code(1)
        .complains("there is no deployment no");
}

#[test]
fn a_server_that_does_not_answer_is_a_row_and_a_person_is_needed() {
    // a port that was free a moment ago and on which nobody listens
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = format!(
        "<Deployment><Name>contoso</Name><Type>MyCompany</Type><Url>http://127.0.0.1:{port}/contoso</Url><AllowHttp>true</AllowHttp>
         <AccessCredentials>OtherSpecified</AccessCredentials><UserName>CONTOSO\\router</UserName><Password>file:password</Password></Deployment>"
    );
    let config = maildir_config("", "<AllowEmbeddedBesideOthers>true</AllowEmbeddedBesideOthers>");
    let config = config
        .replace("<Deployments>", &format!("<Deployments>{server}"))
        .replace("</EmailAddress>", "</EmailAddress><Deployment>crm</Deployment>");
    let world = World::with(&config);
    world.write("password", "secret");
    for action in ["size", "verify", "rebuild"] {
        world.run(["mirror", action]).with_code(4).says("contoso: FAILED:").says("127.0.0.1");
    }
    let reports = world.json(["mirror", "size", "--deployment", "contoso"]);
    assert_eq!((&reports[0]["deployment"], &reports[0]["outcome"]), (&"contoso".into(), &"failed".into()));
    // and the same for load-data, which loads the other
    let queue = ["add", "queue", "name=Support", "emailaddress=support@example.com"];
    world.run(["crm", "--deployment", "crm"].iter().chain(&queue)).ok();
    world
        .run(["load-data"])
        .with_code(4)
        .says("contoso (MyCompany): NOT LOADED:")
        .says("crm (Embedded): 0 users, 1 queue");
}
