//! What smart matching compares (`crm-contract.md` 8.4 and 13.4): hashes of the words of a subject and of the addresses of an e-mail.
//!
//! The engine computes them for received messages, a CRM that makes the outgoing e-mails computes them for those; both must come to
//! the same numbers, so the computation is here.

use std::collections::HashSet;

use email_router_model::EmailAddress;
use regex::{Regex, RegexBuilder};
use unicode_normalization::char::is_combining_mark;

use crate::token::TokenFinder;
use crate::{DEFAULT_HASH_FILTER_KEYWORDS, OrganizationSettings, SmartHashes, subject};

/// Characters of a subject that are looked at; Dataverse keeps 800.
const MAX_SUBJECT: usize = 1000;
/// The longest pattern that is compiled, in bytes.
const MAX_PATTERN: usize = 10_000;
/// Memory that a compiled pattern may take, in bytes.
const MAX_COMPILED: usize = 1 << 20;
/// Steps back that a pattern with look-around or back-references may take for one match.
const MAX_STEPS: usize = 20_000;
/// Matches of such a pattern in one subject.
const MAX_MATCHES: usize = 50;

/// Computes the hashes of one organization's e-mails. Making one compiles a pattern; keep it.
#[derive(Debug, Clone)]
pub struct SmartHasher {
    max: usize,
    white_space: bool,
    tokens: TokenFinder,
    filter: Filter,
    usual: Filter,
    problem: Option<String>,
}

/// What `hashfilterkeywords` removes.
#[derive(Debug, Clone)]
enum Filter {
    Nothing,
    /// In a time linear in the subject.
    Linear(Regex),
    /// With look-around or back-references: in a bounded number of steps.
    Bounded(fancy_regex::Regex),
}

/// The words of a subject that count.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SubjectWords {
    /// In order, each once, folded, at most `hashmaxcount`.
    pub words: Vec<String>,
    /// The organization's pattern took too many steps on this subject; the usual one was applied.
    pub fell_back: bool,
    /// Words as a person counts them: a run of a script without spaces is several.
    count: usize,
    /// Characters of the longest word of a script with spaces.
    longest: usize,
    /// Characters of the longest word with a number in it; 0 where there is none.
    longest_number: usize,
}

impl SubjectWords {
    /// Whether the subject says too little to tell a conversation by it
    /// ([`OrganizationSettings::smart_matching_common_subject_guard`]), where `delta` words may differ.
    #[must_use]
    pub fn say_little(&self, delta: u32) -> bool {
        let pair = self.count == 2 && delta == 0 && (self.longest >= 6 || self.longest_number > 0);
        self.count < 3 && self.longest_number < 6 && !pair
    }
}

impl SmartHasher {
    /// The hasher for these settings. A pattern that cannot be used is a [problem](Self::problem), not an error: mail must flow.
    #[must_use]
    pub fn new(settings: &OrganizationSettings) -> Self {
        let usual = Filter::new(DEFAULT_HASH_FILTER_KEYWORDS).unwrap_or(Filter::Nothing);
        let (filter, problem) = match Filter::new(&settings.hash_filter_keywords) {
            Ok(filter) => (filter, None),
            Err(why) => {
                let problem = format!("hashfilterkeywords cannot be used, so Dataverse's default is: {why}");
                (usual.clone(), Some(problem))
            }
        };
        Self {
            max: settings.hash_max_count as usize,
            white_space: settings.smart_matching_whitespace_words,
            tokens: TokenFinder::new(settings),
            filter,
            usual,
            problem,
        }
    }

    /// Why `hashfilterkeywords` is not used, in one line; `None` when it is.
    #[must_use]
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// The hashes of an e-mail with this subject and these addresses (From, To, Cc, Bcc, in this order).
    #[must_use]
    pub fn hashes<'a>(
        &self,
        subject: &str,
        addresses: impl IntoIterator<Item = &'a EmailAddress>,
    ) -> SmartHashes {
        let mut seen = HashSet::new();
        let addresses = addresses.into_iter().map(|a| hash(&a.key())).filter(|h| seen.insert(*h));
        SmartHashes {
            addresses: sorted(addresses.take(self.max)),
            words: sorted(self.words(subject).words.iter().map(|w| hash(w))),
        }
    }

    /// The words of a subject: tokens, prefixes and what `hashfilterkeywords` matches are removed; then runs of letters, digits and
    /// marks in any script are words, [folded](subject::fold). Where a script writes no spaces between words (Han, Kana, Thai ...), each
    /// two neighbouring characters are one.
    ///
    /// With `smartmatchingwhitespacewords` words are what stands between white space, in lower case, and only
    /// `hashfilterkeywords` and tokens are removed.
    #[must_use]
    pub fn words(&self, subject: &str) -> SubjectWords {
        let cut = subject.char_indices().nth(MAX_SUBJECT).map_or(subject, |(at, _)| &subject[..at]);
        let mut text = self.tokens.remove(cut);
        if !self.white_space {
            text = subject::strip_prefixes(&text).rest.replace('\u{ff1a}', ":");
        }
        let (text, fell_back) = match self.filter.remove(&text) {
            Some(text) => (text, false),
            None => (self.usual.remove(&text).unwrap_or(text), true),
        };
        let mut found = Collector { max: self.max, ..Collector::default() };
        if self.white_space {
            text.split_whitespace().for_each(|word| found.word(word.to_lowercase()));
        } else {
            split(&subject::fold(&text), &mut found);
        }
        found.words.fell_back = fell_back;
        found.words
    }
}

impl Filter {
    fn new(pattern: &str) -> Result<Self, String> {
        if pattern.is_empty() {
            return Ok(Self::Nothing);
        }
        if pattern.len() > MAX_PATTERN {
            return Err(format!("it has {} bytes, more than {MAX_PATTERN}", pattern.len()));
        }
        let linear = RegexBuilder::new(pattern).size_limit(MAX_COMPILED).nest_limit(100).build();
        match linear {
            Ok(pattern) => Ok(Self::Linear(pattern)),
            Err(regex::Error::CompiledTooBig(_)) => {
                Err(format!("it needs more than {MAX_COMPILED} bytes of memory"))
            }
            Err(error) => fancy_regex::RegexBuilder::new(pattern)
                .backtrack_limit(MAX_STEPS)
                .delegate_size_limit(MAX_COMPILED)
                .build()
                .map(Self::Bounded)
                // what `regex` says is about the syntax, several lines long, the reason in the last one
                .map_err(|_| error.to_string().lines().last().unwrap_or_default().trim().to_owned()),
        }
    }

    /// The text without what matches; `None` when that would take too many steps.
    fn remove(&self, text: &str) -> Option<String> {
        match self {
            Self::Nothing => Some(text.to_owned()),
            Self::Linear(pattern) => Some(pattern.replace_all(text, "").into_owned()),
            Self::Bounded(pattern) => {
                let (mut rest, mut end) = (String::with_capacity(text.len()), 0);
                for (n, found) in pattern.find_iter(text).enumerate() {
                    let found = found.ok().filter(|_| n < MAX_MATCHES)?;
                    rest.push_str(&text[end..found.start()]);
                    end = found.end();
                }
                rest.push_str(&text[end..]);
                Some(rest)
            }
        }
    }
}

/// How a character takes part in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Between words.
    Gap,
    /// Part of a word that ends at a gap.
    Letter,
    /// Of a script without spaces; a word has about so many characters.
    Run(usize),
}

impl Class {
    fn of(c: char) -> Self {
        // 々〆〇, Hangzhou numerals, Kana without its punctuation, Bopomofo, Han with all extensions
        let ideographic = matches!(c,
            '\u{3005}'..='\u{3007}' | '\u{3021}'..='\u{3029}' | '\u{3041}'..='\u{3096}' | '\u{3099}'..='\u{309f}'
            | '\u{30a1}'..='\u{30fa}' | '\u{30fc}'..='\u{312f}' | '\u{31a0}'..='\u{31bf}' | '\u{31f0}'..='\u{31ff}'
            | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}'
            | '\u{1aff0}'..='\u{1b16f}' | '\u{20000}'..='\u{3fffd}');
        if ideographic {
            return Self::Run(2);
        }
        if !c.is_alphanumeric() && !is_combining_mark(c) {
            return Self::Gap;
        }
        // Thai, Lao; Myanmar and Khmer; Tai Le, New Tai Lue, Tai Tham, Tai Viet; Balinese, Javanese
        let syllabic = matches!(c,
            '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{1950}'..='\u{19df}'
            | '\u{1a20}'..='\u{1aaf}' | '\u{1b00}'..='\u{1b7f}' | '\u{a980}'..='\u{a9ff}' | '\u{aa60}'..='\u{aadf}');
        if syllabic && !c.is_numeric() { Self::Run(5) } else { Self::Letter }
    }
}

/// Splits folded text into words.
fn split(text: &str, found: &mut Collector) {
    let (mut word, mut class) = (String::new(), Class::Gap);
    for c in text.chars() {
        let mut next = Class::of(c);
        if class != Class::Gap && is_combining_mark(c) {
            next = class; // a mark belongs to the character before it
        }
        if next != class {
            found.end(std::mem::take(&mut word), class);
            class = next;
        }
        if next != Class::Gap {
            word.push(c);
        }
    }
    found.end(word, class);
}

#[derive(Default)]
struct Collector {
    max: usize,
    seen: HashSet<String>,
    words: SubjectWords,
}

impl Collector {
    fn end(&mut self, text: String, class: Class) {
        match class {
            Class::Gap => {}
            Class::Letter => self.word(text),
            Class::Run(length) => {
                let run: Vec<char> = text.chars().collect();
                let pairs = run.windows(run.len().clamp(1, 2)); // a single character stands for itself
                let fresh = pairs.filter(|pair| self.add(pair.iter().collect())).count() > 0;
                if fresh {
                    self.words.count += run.len().div_ceil(length);
                }
            }
        }
    }

    fn word(&mut self, word: String) {
        let (length, number) = (word.chars().count(), word.contains(char::is_numeric));
        if self.add(word) {
            self.words.count += 1;
            self.words.longest = self.words.longest.max(length);
            if number {
                self.words.longest_number = self.words.longest_number.max(length);
            }
        }
    }

    /// `true` when the word is new and there was room for it.
    fn add(&mut self, word: String) -> bool {
        let fresh = self.words.words.len() < self.max && self.seen.insert(word.clone());
        if fresh {
            self.words.words.push(word);
        }
        fresh
    }
}

/// Sorted, each once.
fn sorted(hashes: impl Iterator<Item = i64>) -> Vec<i64> {
    let mut found: Vec<i64> = hashes.collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// FNV-1a, 64 bits: the same on every machine and in every version.
fn hash(text: &str) -> i64 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash.cast_signed()
}

#[cfg(test)]
mod tests {
    use email_router_model::{ActivityId, Timestamp};
    use proptest::prelude::*;

    use super::*;
    use crate::{EmailSummary, SmartQuery};

    fn hasher(change: impl FnOnce(&mut OrganizationSettings)) -> SmartHasher {
        let mut settings = OrganizationSettings::default();
        change(&mut settings);
        SmartHasher::new(&settings)
    }

    fn usual() -> SmartHasher {
        hasher(|_| {})
    }

    fn words(subject: &str) -> String {
        usual().words(subject).words.join(" ")
    }

    /// `crm-contract.md` 14, "Default hashfilterkeywords".
    #[test]
    fn contract_vectors_of_the_filter() {
        let filter = Filter::new(DEFAULT_HASH_FILTER_KEYWORDS).unwrap();
        for (subject, after) in [
            ("RE: Test", "Test"),
            ("FW: RE: Test", "Test"),
            ("RE:FW:re: a", "a"),
            ("  Re : Hello CRM:0001001", "Hello CRM:0001001"),
            ("AW: WG: Angebot 12", "Angebot 12"),
            ("答复: 报价", "报价"),
            ("Réf: été", "été"),
            ("Out of office: Test", "Out of office: Test"),
            ("Invoice: 5 items", "5 items"),
            ("CRM:0001001", "0001001"),
            ("Re[2]: x", "Re[2]: x"),
            ("RE: [EXT] FW: x", "[EXT] FW: x"),
            ("http://a.b", "//a.b"),
            ("回复：报价", "回复：报价"),
            ("RE\u{a0}: nbsp", "nbsp"),
        ] {
            assert_eq!(filter.remove(subject).as_deref(), Some(after), "{subject}");
        }
        let longer = format!("{DEFAULT_HASH_FILTER_KEYWORDS}|Out of office:");
        assert_eq!(Filter::new(&longer).unwrap().remove("Out of office: Test").as_deref(), Some(" Test"));
        let long = "x".repeat(1_000_000);
        assert_eq!(filter.remove(&long), Some(long));
    }

    #[test]
    fn patterns_that_are_not_linear() {
        // look-ahead and a back-reference: refused by `regex`
        let ahead = Filter::new(r"^(?!Keep)\w+:\s*|(\d)\1").unwrap();
        assert!(matches!(ahead, Filter::Bounded(_)));
        assert_eq!(ahead.remove("Drop: a 11 b").as_deref(), Some("a  b"));
        assert_eq!(ahead.remove("Keep: a").as_deref(), Some("Keep: a"));

        // a step limit ends what would take for ever; the usual pattern counts for this subject
        let slow = hasher(|s| s.hash_filter_keywords = r"(x+x+)+\1y".to_owned());
        assert_eq!(slow.problem(), None);
        let hostile = format!("RE: {}", "x".repeat(900));
        let words = slow.words(&hostile);
        assert!(words.fell_back, "{words:?}");
        assert_eq!(words.words, ["x".repeat(900)]);
        assert!(!slow.words("RE: Offer 12").fell_back);
        // so does a limit of matches
        let many = hasher(|s| s.hash_filter_keywords = r"a(?=b)".to_owned());
        assert!(many.words(&"ab ".repeat(60)).fell_back);
    }

    #[test]
    fn a_pattern_that_cannot_be_used_is_a_problem() {
        for pattern in ["(", "(?<=", r"\p{IsNoScript}x", "a{1000}{1000}{1000}", &"x".repeat(10_001)] {
            let hasher = hasher(|s| s.hash_filter_keywords = pattern.to_owned());
            let problem = hasher.problem().unwrap_or_else(|| panic!("{pattern}"));
            assert!(problem.starts_with("hashfilterkeywords") && !problem.contains('\n'), "{problem}");
            assert_eq!(hasher.words("RE: Offer 12").words, ["offer", "12"], "{pattern}");
        }
        assert_eq!(usual().problem(), None);
        let nothing = hasher(|s| s.hash_filter_keywords = String::new());
        assert_eq!(nothing.words("Invoice: 5").words, ["invoice", "5"]);
    }

    #[test]
    fn words_of_every_script() {
        for (subject, expected) in [
            ("RE: Offer 12 CRM:0001001", "offer 12"),
            ("CRM:0001001 Offer offer OFFER", "offer"),
            ("Re[2]: [EXT] FW: a-b_c", "a b c"),
            ("Straße İzmir ΛΌΓΟΣ ﬁ", "strasse izmir λόγοσ fi"),
            ("回复：产品报价12号", "产品 品报 报价 12 号"),
            ("お見積り・カタログ", "お見 見積 積り カタ タロ ログ"),
            ("ｶﾀﾛｸﾞ", "カタ タロ ログ"),
            ("ขอใบเสนอราคา ๑๒", "ขอ อใ ใบ บเ เส สน นอ อร รา าค คา ๑๒"),
            ("हिन्दी क्या", "हिन्दी क्या"),
            ("\u{200f}תגובה: \u{202b}הצעת\u{202c} מחיר", "הצעת מחיר"),
            ("견적 요청", "견적 요청"),
            ("Cafe\u{301} café", "café"),
            ("… — ?!", ""),
            ("", ""),
        ] {
            assert_eq!(words(subject), expected, "{subject}");
        }
        let many: String = (100..200).map(|n| format!("w{n} ")).collect();
        assert_eq!(usual().words(&many).words.len(), 20);
    }

    #[test]
    fn words_between_white_space() {
        let hasher = hasher(|s| s.smart_matching_whitespace_words = true);
        for (subject, expected) in [
            ("RE: Offer-12, new CRM:0001001", "offer-12, new"),
            ("回复：报价", "回复：报价"),
            ("Re[2]: x", "re[2]: x"),
        ] {
            assert_eq!(hasher.words(subject).words.join(" "), expected, "{subject}");
        }
    }

    #[test]
    fn subjects_that_say_little() {
        for (subject, exact, loose) in [
            ("Question", true, true),
            ("RE: Welcome", true, true),
            ("Hi you", true, true),
            ("", true, true),
            ("Offer 12", false, true),
            ("Garden party", false, true),
            ("INV004711", false, false),
            ("our new offer", false, false),
            ("报价", true, true),
            ("产品报价", true, true),
            ("产品报价请求", false, false),
            ("ขอใบเสนอ", true, true),
        ] {
            let words = usual().words(subject);
            assert_eq!((words.say_little(0), words.say_little(1)), (exact, loose), "{subject}: {words:?}");
        }
    }

    /// `crm-contract.md` 14, "Smart matching", settings 20/0/2.
    #[test]
    fn contract_vectors_of_matching() {
        let address = |a: &str| a.parse::<EmailAddress>().unwrap();
        let (bob, ann, carol) =
            (address("bob@contoso.com"), address("Ann@Example.com"), address("carol@example.com"));
        let stored = EmailSummary {
            activity_id: ActivityId::from_uuid(uuid::Uuid::nil()),
            outgoing: true,
            message_id: None,
            subject: String::new(),
            tracking_token: None,
            regarding: None,
            owner: None,
            parties: Vec::new(),
            created_on: Timestamp::UNIX_EPOCH,
            conversation_index: None,
            conversation_id: None,
            smart: usual().hashes("Offer 12 CRM:0001001", [&bob, &ann]),
        };
        for (subject, from, delta, expected) in [
            ("RE: Offer 12 CRM:0001001", &ann, 0, true),
            ("RE: Offer 13 CRM:0001001", &ann, 0, false),
            ("RE: Offer 12 CRM:0001001", &carol, 0, false),
            ("RE: Offer 12 CRM:0001001 urgent", &ann, 0, false),
            ("RE: Offer 12 CRM:0001001 urgent", &ann, 1, true),
        ] {
            let query = SmartQuery {
                hashes: usual().hashes(subject, [from, &bob]),
                delta,
                min_addresses: 2,
                not_before: Timestamp::UNIX_EPOCH,
            };
            assert_eq!(query.matches(&stored), expected, "{subject} from {from} at {delta}");
        }
    }

    #[test]
    fn addresses_count_once_and_are_capped() {
        let all: Vec<EmailAddress> = (0..30).map(|n| format!("u{n}@x.example").parse().unwrap()).collect();
        let twice = [&all[0], &all[0], &all[1]];
        assert_eq!(usual().hashes("", twice).addresses.len(), 2);
        assert_eq!(usual().hashes("", &all).addresses, usual().hashes("", &all[..20]).addresses);
    }

    proptest! {
        #[test]
        fn hashes_are_sorted_capped_and_blind_to_case(subject in any::<String>(), max in 1_u32..30) {
            let hasher = hasher(|s| s.hash_max_count = max);
            let hashes = hasher.hashes(&subject, []);
            prop_assert!(hashes.words.len() <= max as usize);
            prop_assert!(hashes.words.windows(2).all(|w| w[0] < w[1]));
        }
        #[test]
        fn prefixes_marks_and_direction_change_nothing(
            subject in "[a-z報価ก]{1,6}( [a-z0-9]{1,6}){0,5}",
            prefix in "(RE: |FW: |AW:|回复：|\\[EXT\\] |Re\\[3\\]: |CRM:0001001 |\u{200f}){0,5}",
        ) {
            prop_assert_eq!(words(&format!("{prefix}{subject}\u{200e}")), words(&subject));
        }
    }
}
