//! An invitation in words, for a message that is nothing but an iCalendar object (RFC 5545).

use std::fmt::Write as _;

use super::fields;

/// More events than that are not told.
const MAX_EVENTS: usize = 10;
/// Characters of a description that are told.
const MAX_DESCRIPTION: usize = 20_000;

#[derive(Default)]
struct Event {
    summary: Option<String>,
    start: Option<String>,
    end: Option<String>,
    location: Option<String>,
    organizer: Option<String>,
    status: Option<String>,
    description: Option<String>,
}

/// What the calendar says, a line for each property; `None` when it has no event, task or note.
pub(super) fn in_words(calendar: &str) -> Option<String> {
    let mut method = None;
    let mut events: Vec<Event> = Vec::new();
    let mut more = 0_usize;
    // inside a component that is told, and how deep in others, such as an alarm
    let (mut telling, mut deeper) = (false, 0_usize);
    let mut line = String::new();
    let mut lines = calendar.lines().peekable();
    while let Some(first) = lines.next() {
        line.clear();
        line.push_str(first);
        // folded lines go on behind one blank (3.1)
        while let Some(next) = lines.next_if(|l| l.starts_with([' ', '\t'])) {
            line.push_str(&next[1..]);
        }
        let Some((name, parameters, value)) = property(&line) else { continue };
        let component = value.trim().to_ascii_uppercase();
        match name.as_str() {
            "BEGIN" if matches!(component.as_str(), "VEVENT" | "VTODO" | "VJOURNAL") => {
                (telling, deeper) = (events.len() < MAX_EVENTS, 0);
                if telling { events.push(Event::default()) } else { more += 1 }
            }
            "BEGIN" => deeper += 1,
            "END" if matches!(component.as_str(), "VEVENT" | "VTODO" | "VJOURNAL") => telling = false,
            "END" => deeper = deeper.saturating_sub(1),
            "METHOD" if method.is_none() => method = Some(component),
            _ if telling && deeper == 0 => {
                if let Some(event) = events.last_mut() {
                    event.note(&name, parameters, value);
                }
            }
            _ => {}
        }
    }
    if events.is_empty() {
        return None;
    }
    let mut text = String::new();
    for event in &events {
        if !text.is_empty() {
            text.push_str("\r\n");
        }
        event.write(method.as_deref(), &mut text);
    }
    if more > 0 {
        let _ = write!(text, "\r\n(and {more} more)\r\n"); // into a string
    }
    Some(text)
}

impl Event {
    fn note(&mut self, name: &str, parameters: &str, value: &str) {
        let (place, told) = match name {
            "SUMMARY" => (&mut self.summary, one_line(value)),
            "LOCATION" => (&mut self.location, one_line(value)),
            "STATUS" => (&mut self.status, one_line(value).to_lowercase()),
            "DTSTART" => (&mut self.start, moment(value, parameters)),
            "DTEND" | "DUE" => (&mut self.end, moment(value, parameters)),
            "ORGANIZER" => (&mut self.organizer, person(value, parameters)),
            "DESCRIPTION" => {
                let text = unescape(value);
                (&mut self.description, text.chars().take(MAX_DESCRIPTION).collect())
            }
            _ => return,
        };
        if place.is_none() && !told.trim().is_empty() {
            *place = Some(told);
        }
    }

    fn write(&self, method: Option<&str>, into: &mut String) {
        let what = match method {
            Some("REQUEST") => "Invitation",
            Some("CANCEL") => "Cancelled",
            Some("REPLY") => "Answer to an invitation",
            Some("COUNTER") => "Proposal of another time",
            _ => "Calendar entry",
        };
        let when = match (&self.start, &self.end) {
            (Some(start), Some(end)) => Some(format!("{start} - {end}")),
            (Some(one), None) | (None, Some(one)) => Some(one.clone()),
            (None, None) => None,
        };
        for (name, value) in [
            (what, Some(self.summary.as_deref().unwrap_or("(without a subject)"))),
            ("When", when.as_deref()),
            ("Where", self.location.as_deref()),
            ("Organizer", self.organizer.as_deref()),
            ("Status", self.status.as_deref()),
        ] {
            if let Some(value) = value {
                let _ = write!(into, "{name}: {value}\r\n"); // into a string
            }
        }
        if let Some(description) = &self.description {
            let _ = write!(into, "\r\n{}\r\n", description.trim_end());
        }
    }
}

/// `NAME;PARAMETERS:VALUE`; a colon or semicolon in quotes separates nothing.
fn property(line: &str) -> Option<(String, &str, &str)> {
    let mut quoted = false;
    let colon = line.find(|c| {
        quoted ^= c == '"';
        c == ':' && !quoted
    })?;
    let (head, value) = (&line[..colon], &line[colon + 1..]);
    let (name, parameters) = head.split_once(';').unwrap_or((head, ""));
    Some((name.trim().to_ascii_uppercase(), parameters, value))
}

fn parameter<'a>(parameters: &'a str, name: &str) -> Option<&'a str> {
    let mut quoted = false;
    parameters
        .split(|c| {
            quoted ^= c == '"';
            c == ';' && !quoted
        })
        .filter_map(|p| p.split_once('='))
        .find(|(n, _)| n.trim().eq_ignore_ascii_case(name))
        .map(|(_, v)| v.trim().trim_matches('"'))
        .filter(|v| !v.is_empty())
}

/// Text with its escapes undone (3.3.11).
fn unescape(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            text.push(c);
            continue;
        }
        match chars.next() {
            Some('n' | 'N') => text.push_str("\r\n"),
            Some(other) => text.push(other),
            None => {}
        }
    }
    text
}

fn one_line(value: &str) -> String {
    fields::clean_line(&unescape(value), 1000)
}

/// `20260302T101500Z` as `2026-03-02 10:15 UTC`; what is no such date as it is.
fn moment(value: &str, parameters: &str) -> String {
    let value = value.trim();
    let digits = |range: std::ops::Range<usize>| {
        value.get(range).filter(|d| d.bytes().all(|b| b.is_ascii_digit()) && !d.is_empty())
    };
    let (Some(year), Some(month), Some(day)) = (digits(0..4), digits(4..6), digits(6..8)) else {
        return one_line(value);
    };
    let mut text = format!("{year}-{month}-{day}");
    if let (Some("T"), Some(hour), Some(minute)) = (value.get(8..9), digits(9..11), digits(11..13)) {
        let _ = write!(text, " {hour}:{minute}"); // into a string
        if value.ends_with('Z') {
            text.push_str(" UTC");
        } else if let Some(zone) = parameter(parameters, "TZID") {
            let _ = write!(text, " ({})", fields::clean_line(zone, 100));
        }
    }
    text
}

/// `mailto:ann@example.com` with the name in CN.
fn person(value: &str, parameters: &str) -> String {
    let value = one_line(value);
    let address = match value.get(..7) {
        Some(scheme) if scheme.eq_ignore_ascii_case("mailto:") => &value[7..],
        _ => &value,
    };
    match parameter(parameters, "CN").map(|name| fields::clean_line(name, 400)) {
        Some(name) if !name.eq_ignore_ascii_case(address) => format!("{name} <{address}>"),
        _ => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_invitation() {
        let calendar = "BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nBEGIN:VTIMEZONE\r\nTZID:Europe/Berlin\r\nBEGIN:STANDARD\r\nDTSTART:19701025T030000\r\n\
            END:STANDARD\r\nEND:VTIMEZONE\r\nBEGIN:VEVENT\r\nSUMMARY;LANGUAGE=de:Wöchentliche\\, lan\r\n ge Runde\r\nDTSTART;TZID=Europe/Berlin:20260302T101500\r\n\
            DTEND;TZID=\"Europe/Berlin\":20260302T111500\r\nLOCATION:Raum 1\\; oben\r\nORGANIZER;CN=\"Lee: Ann\":MAILTO:ann@example.com\r\n\
            STATUS:CONFIRMED\r\nDESCRIPTION:one\\ntwo\\\\\r\nBEGIN:VALARM\r\nDESCRIPTION:alarm\r\nSUMMARY:no\r\nEND:VALARM\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n";
        assert_eq!(
            in_words(calendar).unwrap(),
            "Invitation: Wöchentliche, lange Runde\r\nWhen: 2026-03-02 10:15 (Europe/Berlin) - 2026-03-02 11:15 (Europe/Berlin)\r\n\
             Where: Raum 1; oben\r\nOrganizer: Lee: Ann <ann@example.com>\r\nStatus: confirmed\r\n\r\none\r\ntwo\\\r\n"
        );
        let cancelled = "METHOD:CANCEL\nBEGIN:VEVENT\nDTSTART;VALUE=DATE:20261224\nORGANIZER:mailto:a@b.example\nEND:VEVENT";
        assert_eq!(
            in_words(cancelled).unwrap(),
            "Cancelled: (without a subject)\r\nWhen: 2026-12-24\r\nOrganizer: a@b.example\r\n"
        );
        assert_eq!(in_words("BEGIN:VCALENDAR\nEND:VCALENDAR"), None);
        let many = "BEGIN:VEVENT\nSUMMARY:x\nEND:VEVENT\n".repeat(5000);
        assert!(in_words(&many).unwrap().ends_with("(and 4990 more)\r\n"));
    }

    proptest! {
        #[test]
        fn any_text(text in "(BEGIN:VEVENT\r\n)?(.{0,20}[;:=\"\r\n]){0,10}") {
            let _ = in_words(&text);
        }
    }
}
