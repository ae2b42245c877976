//! Configurations, and what a failure has to be like.

use serde_json::Value;

use crate::support::World;

pub(crate) const PASSWORD: &str = "Secret123";

/// Profiles, each with a queue of its name.
#[derive(Default)]
pub(crate) struct Setup {
    pub(crate) profiles: String,
    pub(crate) mailboxes: String,
}

impl Setup {
    pub(crate) fn add(&mut self, name: &str, address: &str, way: &str, elements: &str, more: &str) {
        self.profiles += &format!(
            "<ConfigurationProfile><Name>{name}</Name><Direction>{way}</Direction>{elements}</ConfigurationProfile>"
        );
        let other = if way == "Incoming" { "Outgoing" } else { "Incoming" };
        self.mailboxes += &format!(
            "<Queue><Name>{name}</Name><EmailAddress>{address}</EmailAddress><{way}Profile>{name}</{way}Profile>\
             <{other}Profile>None</{other}Profile>{more}</Queue>"
        );
    }

    pub(crate) fn world(&self) -> World {
        let world = World::with(&format!(
            "<Configuration><ConfigurationProfiles>{}</ConfigurationProfiles>\
             <Deployments><Deployment><Name>crm</Name><Type>Embedded</Type><Path>crm.sqlite</Path></Deployment></Deployments>\
             <Mailboxes>{}</Mailboxes></Configuration>",
            self.profiles, self.mailboxes
        ));
        world.write("password", PASSWORD);
        world.write("wrong", "not the password");
        world.write("secret", "s3cr3t~value");
        world
    }
}

/// What a failure has to be like: its word, and parts of reason, hint and the steps before it.
#[track_caller]
pub(crate) fn fails(found: &Value, fault: &str, reason: &str, hint: &str, steps: &[&str]) {
    assert_eq!((&found["status"], &found["fault"]), (&"failure".into(), &fault.into()), "{found:#}");
    for (key, words) in [("reason", reason), ("hint", hint)] {
        assert!(found[key].as_str().unwrap().contains(words), "no {words:?} in {found:#}");
    }
    let told: Vec<&str> = found["steps"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
    let as_told = told.len() == steps.len() && told.iter().zip(steps).all(|(step, part)| step.contains(part));
    assert!(as_told, "{steps:?} in {found:#}");
    let all = found.to_string();
    assert!(!all.contains("not the password") && !all.contains(PASSWORD) && !all.contains("s3cr3t"), "{all}");
}
