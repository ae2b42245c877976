//! Which parts of a message are its body, and which are attachments (RFC 2046 5.1).

use super::mime::Part;

/// What becomes of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Container,
    /// Text of the body.
    Body(Versions),
    /// A file; where its name is shown in the text.
    Attachment(Versions),
}

/// In which versions of the body a part stands: a multipart/alternative offers two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Versions {
    /// In the one that is shown.
    pub(super) main: bool,
    /// In the one in plain text.
    pub(super) plain: bool,
}

/// What becomes of each part. Of a multipart/alternative the last branch with HTML is shown, else the last with text (RFC 2046
/// 5.1.4: the last is the richest), and the last without HTML is its plain version; whatever else its branches hold is kept as attachments.
pub(super) fn roles(parts: &[Part]) -> Vec<Role> {
    let texts = texts(parts);
    let mut has_html = vec![false; parts.len()];
    let mut has_text = texts.clone();
    for index in (0..parts.len()).rev() {
        has_html[index] |= texts[index] && parts[index].mime_type == "text/html";
        if let Some(parent) = parts[index].parent {
            // children come behind their parent, so this one is complete
            has_html[parent] |= has_html[index];
            has_text[parent] |= has_text[index];
        }
    }
    let branches = |html: bool| {
        let mut chosen: Vec<Option<usize>> = vec![None; parts.len()];
        for (index, part) in parts.iter().enumerate() {
            let Some(parent) = part.parent else { continue };
            let is_branch = parts[parent].mime_type == "multipart/alternative" && has_text[index];
            let better = chosen[parent].is_none_or(|old| has_html[index] == html || has_html[old] != html);
            if is_branch && better {
                chosen[parent] = Some(index);
            }
        }
        let mut hidden = vec![false; parts.len()];
        for (index, part) in parts.iter().enumerate() {
            let Some(parent) = part.parent else { continue };
            hidden[index] = hidden[parent] || chosen[parent].is_some_and(|c| c != index);
        }
        hidden
    };
    let (not_main, not_plain) = (branches(true), branches(false));
    let role = |(index, part): (usize, &Part)| {
        let versions = Versions { main: !not_main[index], plain: !not_plain[index] };
        match part {
            p if p.is_multipart => Role::Container,
            _ if texts[index] => Role::Body(versions),
            _ => Role::Attachment(versions),
        }
    };
    parts.iter().enumerate().map(role).collect()
}

/// Which parts are texts to be read and no files.
fn texts(parts: &[Part]) -> Vec<bool> {
    let is_text = |p: &Part| !p.is_multipart && matches!(p.mime_type.as_str(), "text/plain" | "text/html");
    let mut first_of_related = vec![None; parts.len()];
    let mut texts: Vec<bool> = Vec::with_capacity(parts.len());
    for (index, part) in parts.iter().enumerate() {
        // what a multipart/related has beside its root and gives a name is there to be referred to (RFC 2387 3)
        let referred_to = part.parent.is_some_and(|parent| {
            parts[parent].mime_type == "multipart/related"
                && *first_of_related[parent].get_or_insert(index) != index
                && (part.content_id.is_some() || part.location.is_some())
        });
        let is_file = index > 0 && (part.is_attachment || part.file_name.is_some() || referred_to);
        // the first part is the message itself, whatever it calls itself
        texts.push(is_text(part) && !is_file);
    }
    // nothing but named texts: the first one that does not insist on being a file is what there is to read
    if !texts.contains(&true)
        && let Some(first) = parts.iter().position(|p| is_text(p) && !p.is_attachment)
    {
        texts[first] = true;
    }
    texts
}
