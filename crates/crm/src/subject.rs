//! Subjects in any script: what nobody sees, what letter case hides, and the prefixes of replies and forwards.
//!
//! Mail programs put a word of their language before the subject of an answer or a forward, mail servers put marks such as `[EXT]`
//! there, and both pile up. Whatever compares subjects takes them off here, so that there is one table of them.

use std::borrow::Cow;

use unicode_normalization::UnicodeNormalization as _;

/// The longest prefix with its counter, in characters.
const MAX_PREFIX: usize = 24;
/// The longest mark in brackets, in characters.
const MAX_TAG: usize = 40;

/// What a prefix says of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefix {
    /// An answer.
    Reply,
    /// A forward.
    Forward,
    /// An answer in one language, a forward in another (`VS` is Finnish for the one and Norwegian for the other).
    Either,
}

/// A subject without its prefixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stripped<'a> {
    /// What the message is about, without white space around.
    pub rest: &'a str,
    /// The outermost prefix: what the last person who touched the message did.
    pub outermost: Option<Prefix>,
}

/// Whether a character is there to format text and shows nothing: direction marks, joiners, soft hyphens, variation selectors.
/// Mail programs and people who copy text leave them anywhere.
#[must_use]
pub fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff9}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// The text without [invisible characters](is_invisible).
#[must_use]
pub fn visible(text: &str) -> Cow<'_, str> {
    if text.contains(is_invisible) {
        Cow::Owned(text.chars().filter(|c| !is_invisible(*c)).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// The text as two writings of it share it: compatibility forms unified (NFKC, Unicode Annex 15), letter case ignored in every
/// script (`Straße` is `STRASSE`, `İzmir` is `izmir`).
#[must_use]
pub fn fold(text: &str) -> String {
    text.nfkc().flat_map(fold_char).nfkc().collect()
}

/// Upper and then lower case brings the forms of a letter together that one of the two alone keeps apart (final sigma, sharp s,
/// dotless i).
fn fold_char(c: char) -> impl Iterator<Item = char> {
    // lower case of the dotted capital would leave a combining dot behind
    let c = if c == '\u{130}' { 'i' } else { c };
    c.to_uppercase().flat_map(char::to_lowercase)
}

/// Takes off the prefixes of answers and forwards, with their counters (`Re[2]:`), the marks between them (`RE: [EXT] FW:`), and the
/// marks of mail servers before the subject (`[EXTERNAL]`). Other marks stay, since they may tell conversations apart (`[Ticket 12]`).
///
/// Costs no more than reading the subject once. [Invisible characters](visible) are to be removed before.
#[must_use]
pub fn strip_prefixes(subject: &str) -> Stripped<'_> {
    let mut rest = subject.trim();
    let mut outermost = None;
    // marks that go only if a prefix follows
    let mut pending = rest;
    loop {
        pending = pending.trim_start();
        if let Some((kind, length)) = word_prefix(pending) {
            outermost = outermost.or(kind);
            pending = pending[length..].trim_start();
            rest = pending;
        } else if let Some((inner, kind)) = bracketed_forward(pending) {
            outermost = outermost.or(kind);
            pending = inner;
            rest = pending;
        } else if let Some((length, of_server)) = tag(pending) {
            let at_the_head = pending.len() == rest.len();
            pending = pending[length..].trim_start();
            if of_server && at_the_head {
                rest = pending;
            }
        } else {
            break;
        }
    }
    // the other place for it (RFC 5256 2.1, subj-trailer)
    let end = rest.len().saturating_sub("(fwd)".len());
    if rest.get(end..).is_some_and(|tail| tail.eq_ignore_ascii_case("(fwd)")) {
        outermost = outermost.or(Some(Prefix::Forward));
        rest = &rest[..end];
    }
    Stripped { rest: rest.trim(), outermost }
}

/// The subject as all mails of a conversation share it: without prefixes, [folded](fold), with single spaces.
#[must_use]
pub fn base(subject: &str) -> String {
    let visible = visible(subject);
    fold(strip_prefixes(&visible).rest).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A prefix at the start, up to and with its colon.
fn word_prefix(text: &str) -> Option<(Option<Prefix>, usize)> {
    let (at, colon) = text.char_indices().take(MAX_PREFIX).find(|(_, c)| is_colon(*c))?;
    let word = without_counter(text[..at].trim());
    let kind = kind(&fold(word.trim_end_matches('.')))?;
    Some((kind, at + colon.len_utf8()))
}

fn is_colon(c: char) -> bool {
    matches!(c, ':' | '\u{ff1a}' | '\u{fe55}' | '\u{fe13}')
}

/// `Re[2]`, `Re(2)`, `Re^2`, `Re*2`, `Re-2`, `Re2`.
fn without_counter(word: &str) -> &str {
    let inner = word.strip_suffix([']', ')']).unwrap_or(word);
    let head = inner.trim_end_matches(|c: char| c.is_numeric());
    if head.len() == inner.len() {
        return word;
    }
    head.trim_end_matches(['[', '(', '^', '*', '-']).trim_end()
}

/// `[Fwd: subject]`: what is inside, behind the prefix (RFC 5256 2.1, subj-fwd).
fn bracketed_forward(text: &str) -> Option<(&str, Option<Prefix>)> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    let (kind, length) = word_prefix(inner)?;
    Some((inner[length..].trim(), kind))
}

/// A mark in brackets at the start: its length, and whether a mail server puts it before all mail from outside. One with a number in
/// it is none: it names a conversation.
fn tag(text: &str) -> Option<(usize, bool)> {
    let inner = text.strip_prefix('[')?;
    let (at, _) = inner.char_indices().take(MAX_TAG).find(|(_, c)| *c == ']')?;
    let inner = &inner[..at];
    if inner.contains(|c: char| c.is_numeric() || c == '[') {
        return None;
    }
    let word = fold(inner.trim_matches(|c: char| !c.is_alphabetic()));
    Some((at + "[]".len(), is_server_mark(&word)))
}

fn is_server_mark(folded: &str) -> bool {
    matches!(
        folded,
        "ext"
            | "extern"
            | "external"
            | "externe"
            | "externo"
            | "externa"
            | "esterno"
            | "external email"
            | "external e-mail"
            | "external mail"
            | "external sender"
            | "external message"
            | "sender unverified"
            | "unverified sender"
            | "spam"
            | "suspected spam"
    )
}

/// What a prefix means; `Some(None)` for a mark that is written like a prefix.
fn kind(folded: &str) -> Option<Option<Prefix>> {
    Some(Some(match folded {
        // English and most others; Chinese, Japanese, Korean, Vietnamese, Thai
        "re" | "reply" | "回复" | "回覆" | "答复" | "答覆" | "回信" | "返信" | "답장" | "회신" | "답변"
        | "trả lời" | "tl" | "ตอบ" | "ตอบกลับ"
        // German, Dutch, Swedish/Danish/Norwegian/Icelandic, Finnish and Estonian (see VS), Welsh
        | "aw" | "antw" | "antwort" | "sv" | "svar" | "atb"
        // French, Spanish/Portuguese, Italian, Romanian
        | "réf" | "ref" | "rép" | "rep" | "réponse" | "res" | "resp" | "respuesta" | "resposta" | "r" | "rif"
        | "rx" | "răsp" | "răspuns"
        // Polish, Czech, Slovak; Croatian, Serbian, Slovene; Hungarian; Latvian, Lithuanian
        | "odp" | "odpověď" | "odg" | "vá" | "válasz" | "atbilde" | "ats"
        // Turkish, Indonesian/Malay
        | "ynt" | "yan" | "cvp" | "bls" | "balas"
        // Greek, Russian/Ukrainian/Bulgarian/Serbian (HA looks the same in Latin letters)
        | "απ" | "σχετ" | "απαντ" | "отв" | "ответ" | "на" | "ha" | "відп" | "від" | "отг" | "одг"
        // Hebrew, Arabic, Persian
        | "תגובה" | "תשובה" | "השב" | "رد" | "پاسخ" => Prefix::Reply,

        "fw" | "fwd" | "forward" | "forwarded" | "转发" | "轉寄" | "轉發" | "転送" | "전달" | "fs"
        | "chuyển tiếp" | "ส่งต่อ"
        | "wg" | "doorst" | "doorgestuurd" | "vb" | "vl" | "edasi" | "yml"
        | "tr" | "trans" | "transf" | "rv" | "reenv" | "enc" | "encaminhado" | "i" | "inoltro" | "redir"
        | "pd" | "předáno" | "přeposláno" | "proslijeđeno" | "prosleđeno" | "posredovano" | "tov" | "továbbítás"
        | "pārs" | "pers"
        | "ilt" | "trs" | "terusan"
        | "πρθ" | "προωθ" | "пер" | "пересл" | "переслано" | "пересылка" | "препр" | "прослеђено"
        | "הועבר" | "إعادة توجيه" | "إعادة" | "توجيه" | "ارسال" => Prefix::Forward,

        "vs" => Prefix::Either,

        mark if is_server_mark(mark) => return Some(None),
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prefixes_of_the_world() {
        for reply in [
            "RE: x",
            "Re:x",
            "re : x",
            "RE\u{a0}: x",
            "AW: x",
            "Antw: x",
            "SV: x",
            "Odp: x",
            "YNT: x",
            "RES: x",
            "R: x",
            "RIF: x",
            "BLS: x",
            "Atb.: x",
            "Atb: x",
            "回复: x",
            "回复：x",
            "答复: x",
            "回覆: x",
            "返信: x",
            "Réf: x",
            "Re\u{301}f: x",
            "Σχετ: x",
            "ΣΧΕΤ: x",
            "ΑΠ: x",
            "Отв: x",
            "НА: x",
            "HA: x",
            "Trả lời: x",
            "رد: x",
            "תגובה: x",
            "ＲＥ： x",
            "Re[2]: x",
            "RE(3): x",
            "Re^2: x",
            "RE2: x",
            "RE: RE: AW: x",
            "RE:[EXT] FW: x",
            "[EXT] RE: x",
            "[EXTERNAL] x RE",
            "Re: [list] Re: x",
            "Ats.: x",
        ] {
            let visible = visible(reply);
            let stripped = strip_prefixes(&visible);
            if reply == "[EXTERNAL] x RE" {
                assert_eq!(stripped, Stripped { rest: "x RE", outermost: None });
                continue;
            }
            assert_eq!(stripped, Stripped { rest: "x", outermost: Some(Prefix::Reply) }, "{reply}");
        }
        for forward in [
            "FW: x",
            "Fwd: x",
            "WG: x",
            "TR: x",
            "VL: x",
            "PD: x",
            "ILT: x",
            "İLT: x",
            "ENC: x",
            "RV: x",
            "I: x",
            "Doorst: x",
            "VB: x",
            "转发: x",
            "轉寄：x",
            "転送: x",
            "ΠΡΘ: x",
            "[Fwd: x]",
            "x (fwd)",
            "FW: RE: x",
            "[list] [more] Fwd: x",
            "EXTERNAL: FW: x",
            "إعادة توجيه: x",
            "Továbbítás: x",
        ] {
            let stripped = strip_prefixes(forward);
            assert_eq!(stripped, Stripped { rest: "x", outermost: Some(Prefix::Forward) }, "{forward}");
        }
        assert_eq!(strip_prefixes("VS: x").outermost, Some(Prefix::Either));
    }

    #[test]
    fn what_is_no_prefix_stays() {
        for subject in [
            "two words: x",
            "Invoice: 5 items",
            "[#12] x",
            "[Ticket 12] RE: x",
            "[list] x",
            "[list] [EXT] x",
            "http://a.b",
            "x",
            "",
            "Reply to: x",
            "2: x",
            "[2]: x",
            ": x",
            "Re",
            "[Re]",
            "a very long text: x",
        ] {
            assert_eq!(strip_prefixes(subject), Stripped { rest: subject, outermost: None }, "{subject}");
        }
        assert_eq!(strip_prefixes("RE: [Ticket 12] x").rest, "[Ticket 12] x");
    }

    #[test]
    fn bases() {
        for (a, b) in [
            ("RE: Angebot für Straße 5", "WG:  ANGEBOT FÜR\tSTRASSE 5"),
            ("\u{200f}RE\u{200e}: \u{202b}x\u{202c}", "X"),
            ("回复：报价", "报价"),
            ("ΣΧΕΤ: ΛΌΓΟΣ", "λόγος"),
            ("YNT: İzmir", "izmir"),
            ("ﬁle ①", "FILE 1"),
        ] {
            assert_eq!(base(a), base(b), "{a} {b}");
        }
        assert_eq!(base("RE: "), "");
    }

    proptest! {
        #[test]
        fn stripping_ends_and_comes_to_rest(subject in "(RE|fw|ext|回复|x| |:|：|\\[|\\]|\\(fwd\\)|2|\u{200f}){0,40}") {
            let visible = visible(&subject);
            let once = strip_prefixes(&visible).rest;
            prop_assert!(visible.contains(once));
            prop_assert_eq!(once.trim(), once);
            prop_assert!(word_prefix(once).is_none() , "{}", once);
        }
        #[test]
        fn any_text(subject in any::<String>()) {
            let base = base(&subject);
            prop_assert!(!base.contains(is_invisible));
        }
    }

    #[test]
    fn a_million_prefixes_cost_one_reading() {
        // each of these would take hours if the cost grew with the square of the length
        for unit in ["RE: ", "[a] ", "[EXT] ", "[Fwd: ", "[", "x:", "(fwd)"] {
            let long = unit.repeat(1_000_000 / unit.len());
            assert!(strip_prefixes(&long).rest.len() <= long.len());
        }
    }
}
