//! `$filter`: OData's grammar as far as Dataverse takes it (`crm-contract.md` 11.7), parsed and evaluated; what it does not know is an error.

use email_router_model::Timestamp;
use serde_json::Value;

/// Gives the properties of a row.
pub(super) type Property = Box<dyn Fn(&str) -> Value>;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expression {
    Or(Vec<Expression>),
    And(Vec<Expression>),
    Not(Box<Expression>),
    Compare(String, String, Value),
    Call(String, String, String),
    In(String, Vec<String>),
    Any(String, Box<Expression>),
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Open,
    Close,
    Comma,
    ListOpen,
    ListClose,
    Colon,
    Equals,
}

/// Parses a filter, already percent-decoded.
pub(super) fn parse(text: &str) -> Result<Expression, String> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, variable: None };
    let expression = parser.or()?;
    match parser.tokens.get(parser.at) {
        None => Ok(expression),
        Some(token) => Err(format!("Syntax error at {token:?}")),
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut found = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(&c) = chars.peek() {
        match c {
            ' ' | '\t' => {
                chars.next();
            }
            '(' | ')' | ',' | '[' | ']' | ':' | '=' => {
                chars.next();
                found.push(match c {
                    '(' => Token::Open,
                    ')' => Token::Close,
                    ',' => Token::Comma,
                    '[' => Token::ListOpen,
                    ']' => Token::ListClose,
                    ':' => Token::Colon,
                    _ => Token::Equals,
                });
            }
            '\'' => {
                chars.next();
                let mut value = String::new();
                loop {
                    match chars.next() {
                        Some('\'') if chars.peek() == Some(&'\'') => {
                            chars.next();
                            value.push('\'');
                        }
                        Some('\'') => break,
                        Some(c) => value.push(c),
                        None => return Err("There is an unterminated string literal".to_owned()),
                    }
                }
                found.push(Token::Text(value));
            }
            c if c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '+') => {
                let mut word = String::new();
                while let Some(&c) = chars.peek() {
                    // a time has colons in it
                    let part_of_time = c == ':' && word.len() >= 13 && word.as_bytes()[4] == b'-';
                    if !(c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '+') || part_of_time) {
                        break;
                    }
                    word.push(c);
                    chars.next();
                }
                found.push(Token::Word(word));
            }
            other => return Err(format!("Syntax error: character {other:?}")),
        }
    }
    Ok(found)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    variable: Option<String>,
}

impl Parser {
    fn next(&mut self) -> Result<Token, String> {
        let token = self.tokens.get(self.at).cloned().ok_or("Expression ends too soon")?;
        self.at += 1;
        Ok(token)
    }

    fn word(&mut self, word: &str) -> bool {
        let is = matches!(self.tokens.get(self.at), Some(Token::Word(found)) if found == word);
        self.at += usize::from(is);
        is
    }

    fn expect(&mut self, token: &Token) -> Result<(), String> {
        let found = self.next()?;
        if found == *token { Ok(()) } else { Err(format!("{token:?} expected, {found:?} found")) }
    }

    fn or(&mut self) -> Result<Expression, String> {
        let mut all = vec![self.and()?];
        while self.word("or") {
            all.push(self.and()?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Expression::Or(all) })
    }

    fn and(&mut self) -> Result<Expression, String> {
        let mut all = vec![self.unary()?];
        while self.word("and") {
            all.push(self.unary()?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Expression::And(all) })
    }

    fn unary(&mut self) -> Result<Expression, String> {
        if self.word("not") {
            return Ok(Expression::Not(Box::new(self.unary()?)));
        }
        if self.tokens.get(self.at) == Some(&Token::Open) {
            self.at += 1;
            let inner = self.or()?;
            self.expect(&Token::Close)?;
            return Ok(inner);
        }
        let Token::Word(name) = self.next()? else {
            return Err("a property or function expected".to_owned());
        };
        match name.as_str() {
            "contains" | "startswith" | "endswith" => {
                self.expect(&Token::Open)?;
                let property = self.property()?;
                self.expect(&Token::Comma)?;
                let Token::Text(value) = self.next()? else { return Err("a string expected".to_owned()) };
                self.expect(&Token::Close)?;
                Ok(Expression::Call(name, property, value))
            }
            "Microsoft.Dynamics.CRM.In" => self.one_of(),
            _ if name.ends_with("/any") && self.tokens.get(self.at) == Some(&Token::Open) => {
                self.expect(&Token::Open)?;
                let Token::Word(variable) = self.next()? else {
                    return Err("a variable expected".to_owned());
                };
                self.expect(&Token::Colon)?;
                let outer = self.variable.replace(variable);
                let inner = self.or()?;
                self.variable = outer;
                self.expect(&Token::Close)?;
                Ok(Expression::Any(name.trim_end_matches("/any").to_owned(), Box::new(inner)))
            }
            _ => {
                let property = self.strip(name)?;
                let Token::Word(operator) = self.next()? else {
                    return Err("an operator expected".to_owned());
                };
                if !["eq", "ne", "gt", "ge", "lt", "le"].contains(&operator.as_str()) {
                    return Err(format!("unknown operator {operator}"));
                }
                let value = match self.next()? {
                    Token::Text(text) => Value::String(text),
                    Token::Word(word) => literal(&word),
                    other => return Err(format!("a literal expected, {other:?} found")),
                };
                Ok(Expression::Compare(property, operator, value))
            }
        }
    }

    fn property(&mut self) -> Result<String, String> {
        match self.next()? {
            Token::Word(name) => self.strip(name),
            other => Err(format!("a property expected, {other:?} found")),
        }
    }

    fn strip(&self, name: String) -> Result<String, String> {
        match &self.variable {
            None => Ok(name),
            Some(variable) => name
                .strip_prefix(&format!("{variable}/"))
                .map(str::to_owned)
                .ok_or_else(|| format!("{name} is not a property of {variable}")),
        }
    }

    fn one_of(&mut self) -> Result<Expression, String> {
        let named = |parser: &mut Self, name: &str| {
            if parser.word(name) { parser.expect(&Token::Equals) } else { Err(format!("{name} expected")) }
        };
        self.expect(&Token::Open)?;
        named(self, "PropertyName")?;
        let Token::Text(property) = self.next()? else { return Err("a string expected".to_owned()) };
        self.expect(&Token::Comma)?;
        named(self, "PropertyValues")?;
        self.expect(&Token::ListOpen)?;
        let mut values = Vec::new();
        loop {
            match self.next()? {
                Token::Text(value) => values.push(value),
                Token::Comma => {}
                Token::ListClose => break,
                other => return Err(format!("a string expected, {other:?} found")),
            }
        }
        self.expect(&Token::Close)?;
        Ok(Expression::In(property, values))
    }
}

fn literal(word: &str) -> Value {
    match word {
        "null" => Value::Null,
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ => word.parse::<i64>().map_or_else(|_| Value::String(word.to_owned()), Value::from),
    }
}

impl Expression {
    /// The properties it names, those of lambdas left out.
    pub(super) fn properties(&self) -> Vec<&str> {
        match self {
            Self::Or(all) | Self::And(all) => all.iter().flat_map(Self::properties).collect(),
            Self::Not(inner) => inner.properties(),
            Self::Compare(name, ..) | Self::Call(_, name, _) | Self::In(name, _) => vec![name],
            Self::Any(..) => Vec::new(),
        }
    }

    /// Whether a row matches; `value` gives a property, `rows` what a collection holds.
    pub(super) fn matches(
        &self,
        value: &dyn Fn(&str) -> Value,
        rows: &dyn Fn(&str) -> Vec<Property>,
    ) -> bool {
        match self {
            Self::Or(all) => all.iter().any(|inner| inner.matches(value, rows)),
            Self::And(all) => all.iter().all(|inner| inner.matches(value, rows)),
            Self::Not(inner) => !inner.matches(value, rows),
            Self::Compare(name, operator, wanted) => compare(&value(name), operator, wanted),
            Self::Call(function, name, wanted) => {
                let Value::String(text) = value(name) else { return false };
                let (text, wanted) = (text.to_lowercase(), wanted.to_lowercase());
                match function.as_str() {
                    "contains" => text.contains(&wanted),
                    "startswith" => text.starts_with(&wanted),
                    _ => text.ends_with(&wanted),
                }
            }
            Self::In(name, wanted) => {
                wanted.iter().any(|wanted| compare(&value(name), "eq", &Value::String(wanted.clone())))
            }
            Self::Any(name, inner) => rows(name).iter().any(|row| inner.matches(row, rows)),
        }
    }
}

fn compare(value: &Value, operator: &str, wanted: &Value) -> bool {
    use std::cmp::Ordering;
    let order = match (value, wanted) {
        (Value::Null, Value::Null) => Some(Ordering::Equal),
        (Value::Null, _) | (_, Value::Null) => return operator == "ne",
        (Value::String(a), Value::String(b)) => {
            Some(match (a.parse::<Timestamp>(), b.parse::<Timestamp>()) {
                (Ok(a), Ok(b)) => a.cmp(&b),
                // as SQL Server's usual collation does
                _ => a.to_lowercase().cmp(&b.to_lowercase()),
            })
        }
        (Value::Number(a), Value::Number(b)) => a.as_i64().zip(b.as_i64()).map(|(a, b)| a.cmp(&b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        _ => None,
    };
    order.is_some_and(|order| match operator {
        "eq" => order.is_eq(),
        "ne" => order.is_ne(),
        "gt" => order.is_gt(),
        "ge" => order.is_ge(),
        "lt" => order.is_lt(),
        _ => order.is_le(),
    })
}
