//! Which version of the schema a request is written in.

use std::fmt;

/// `RequestServerVersion`: the oldest server that understands a request. Ordered, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Version {
    /// Exchange 2007 SP1.
    Exchange2007Sp1,
    /// Exchange 2010.
    Exchange2010,
    /// Exchange 2010 SP1: inbox rules and streaming notifications begin here.
    Exchange2010Sp1,
    /// Exchange 2010 SP2.
    Exchange2010Sp2,
    /// Exchange 2013.
    Exchange2013,
    /// Exchange 2013 SP1.
    Exchange2013Sp1,
    /// Exchange 2016, 2019, Subscription Edition and Online.
    Exchange2016,
}

impl Version {
    /// All, oldest first.
    pub const ALL: [Self; 7] = [
        Self::Exchange2007Sp1,
        Self::Exchange2010,
        Self::Exchange2010Sp1,
        Self::Exchange2010Sp2,
        Self::Exchange2013,
        Self::Exchange2013Sp1,
        Self::Exchange2016,
    ];

    /// As the schema writes it (`ExchangeVersionType`).
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exchange2007Sp1 => "Exchange2007_SP1",
            Self::Exchange2010 => "Exchange2010",
            Self::Exchange2010Sp1 => "Exchange2010_SP1",
            Self::Exchange2010Sp2 => "Exchange2010_SP2",
            Self::Exchange2013 => "Exchange2013",
            Self::Exchange2013Sp1 => "Exchange2013_SP1",
            Self::Exchange2016 => "Exchange2016",
        }
    }

    /// The next older one; `None` below the oldest.
    #[must_use]
    pub fn older(self) -> Option<Self> {
        Self::ALL.iter().rev().copied().find(|&v| v < self)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_down_ends() {
        let mut version = Version::Exchange2016;
        let mut seen = vec![version];
        while let Some(older) = version.older() {
            assert!(older < version);
            version = older;
            seen.push(version);
        }
        seen.reverse();
        assert_eq!(seen, Version::ALL);
    }
}
