//! Files that are damaged, empty, or hold what nobody knows.

use super::*;

/// An empty element counts as none, and does not shift the lines of those after it.
#[cfg(not(windows))]
#[test]
fn empty_files_do_not_shift_lines() {
    let files = "<ExtraCaFiles>\n<File/>\n<File> </File>\n<File>C:\\ca.pem</File>\n</ExtraCaFiles>";
    profile(
        POP,
        &[("</Name>", &format!("</Name>{files}"))],
        &[
            "E.xml:6: error: profile \"In\": File is a Windows path, which means nothing on this system [foreign-path]",
        ],
    );
}

#[test]
fn unknown_things_are_kept_and_told() {
    says(
        "<Configuration a='1' xmlns='x' xsi:b='c'>\n text <SystemConfiguration><MaxThread>1</MaxThread>\n  <Odd/></SystemConfiguration>\n<ProviderConfiguration/></Configuration>",
        &[
            "E.xml:1: warning: unknown attribute a of Configuration has no effect; it is kept as it is [unknown-attribute]",
            "E.xml:1: warning: the text directly inside Configuration has no effect; it is kept as it is [ignored-element]",
            "E.xml:2: warning: unknown element MaxThread in SystemConfiguration has no effect; it is kept as it is; did you \
         mean MaxThreads? [unknown-element]",
            "E.xml:3: warning: unknown element Odd in SystemConfiguration has no effect; it is kept as it is [unknown-element]",
            "E.xml:4: warning: unknown element ProviderConfiguration in Configuration has no effect; it is kept as it is; \
         describe the provider as a ConfigurationProfile instead [unknown-element]",
        ],
    );
    says(
        "<Config/>",
        &["E.xml:1: error: the root element is Config; it must be Configuration [unknown-element]"],
    );
}

#[test]
fn damage() {
    for (text, expected) in [
        ("", "E.xml:1:1: error: the file is damaged: root element is missing [damaged]"),
        (
            "<Configuration>\n<Router>",
            "E.xml:2:9: error: the file is damaged: the file ends before the end tag of Router, which was opened at line 2 \
             [damaged]",
        ),
        (
            "<!DOCTYPE x><Configuration/>",
            "E.xml:1:1: error: the file is damaged: a document type declaration is not allowed in this file [damaged]",
        ),
    ] {
        let (_, findings) = check(text, Path::new("E.xml"));
        assert_eq!(findings.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected]);
    }
}
