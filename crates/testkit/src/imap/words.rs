//! The words of a command.

/// A word of a command: an atom or string, or a list in parentheses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    Text(Vec<u8>),
    List(Vec<Word>),
}

impl Word {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::List(_) => String::new(),
        }
    }

    /// The words of a list, or the one word.
    pub(super) fn all(&self) -> Vec<String> {
        match self {
            Self::Text(_) => vec![self.text()],
            Self::List(words) => words.iter().map(Word::text).collect(),
        }
    }
}

/// Splits a command; each line feed in it stands for the next of the literals. `None` for a malformed one.
pub(super) fn split(line: &[u8], literals: &[Vec<u8>]) -> Option<Vec<Word>> {
    let mut literals = literals.iter();
    let mut at = 0;
    let words = list(line, &mut at, &mut literals, false)?;
    (at >= line.len()).then_some(words)
}

fn list<'a>(
    line: &[u8],
    at: &mut usize,
    literals: &mut impl Iterator<Item = &'a Vec<u8>>,
    nested: bool,
) -> Option<Vec<Word>> {
    let mut words = Vec::new();
    loop {
        match line.get(*at) {
            None => return (!nested).then_some(words),
            Some(b' ') => *at += 1,
            Some(b')') => {
                *at += 1;
                return nested.then_some(words);
            }
            Some(b'(') => {
                *at += 1;
                words.push(Word::List(list(line, at, literals, true)?));
            }
            Some(b'\n') => {
                *at += 1;
                words.push(Word::Text(literals.next()?.clone()));
            }
            Some(b'"') => {
                *at += 1;
                let mut text = Vec::new();
                loop {
                    match line.get(*at)? {
                        b'"' => break,
                        b'\\' => {
                            text.push(*line.get(*at + 1)?);
                            *at += 2;
                        }
                        other => {
                            text.push(*other);
                            *at += 1;
                        }
                    }
                }
                *at += 1;
                words.push(Word::Text(text));
            }
            Some(_) => {
                let begin = *at;
                let mut bracket = false;
                while let Some(byte) = line.get(*at) {
                    match byte {
                        b'[' => bracket = true,
                        b']' => bracket = false,
                        b' ' | b'(' | b')' | b'"' | b'\n' if !bracket => break,
                        _ => {}
                    }
                    *at += 1;
                }
                words.push(Word::Text(line[begin..*at].to_vec()));
            }
        }
    }
}

/// A set of numbers; `*` is the largest of `all`. Only those in `all` are given.
pub(super) fn set(text: &str, all: &[u32]) -> Vec<u32> {
    let largest = all.iter().copied().max().unwrap_or(0);
    let number = |text: &str| if text == "*" { largest } else { text.parse().unwrap_or(0) };
    let ranges: Vec<(u32, u32)> = text
        .split(',')
        .map(|part| {
            let (a, b) = part.split_once(':').unwrap_or((part, part));
            let (a, b) = (number(a), number(b));
            (a.min(b), a.max(b))
        })
        .collect();
    all.iter().copied().filter(|n| ranges.iter().any(|(a, b)| (a..=b).contains(&n))).collect()
}
