//! The national clouds of Microsoft 365.

use std::fmt;
use std::str::FromStr;

/// A cloud of Microsoft 365, each with its own token service and its own addresses of the mail services. A token of one is worth nothing in
/// another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cloud {
    /// The worldwide one, to which also GCC belongs.
    #[default]
    Public,
    /// GCC High of the government of the United States.
    UsGovernment,
    /// The department of defense of the United States.
    UsDefense,
    /// China, operated by 21Vianet.
    China,
}

impl Cloud {
    /// All clouds.
    pub const ALL: [Self; 4] = [Self::Public, Self::UsGovernment, Self::UsDefense, Self::China];

    /// The address of the token service; the tenant follows as the first part of the path.
    #[must_use]
    pub fn authority(self) -> &'static str {
        match self {
            Self::Public => "https://login.microsoftonline.com",
            Self::UsGovernment | Self::UsDefense => "https://login.microsoftonline.us",
            Self::China => "https://login.partner.microsoftonline.cn",
        }
    }

    /// The root of Microsoft Graph.
    #[must_use]
    pub fn graph(self) -> &'static str {
        match self {
            Self::Public => "https://graph.microsoft.com",
            Self::UsGovernment => "https://graph.microsoft.us",
            Self::UsDefense => "https://dod-graph.microsoft.us",
            Self::China => "https://microsoftgraph.chinacloudapi.cn",
        }
    }

    /// The root of Exchange Online for EWS, POP3, IMAP and SMTP tokens.
    #[must_use]
    pub fn outlook(self) -> &'static str {
        match self {
            Self::Public => "https://outlook.office365.com",
            Self::UsGovernment => "https://outlook.office365.us",
            Self::UsDefense => "https://outlook-dod.office365.us",
            Self::China => "https://partner.outlook.cn",
        }
    }

    /// The scope of a token for Microsoft Graph: every permission that was granted to the application.
    #[must_use]
    pub fn graph_scope(self) -> String {
        format!("{}/.default", self.graph())
    }

    /// The scope of a token for Exchange Online (EWS, POP3, IMAP, SMTP): every permission that was granted to the application.
    #[must_use]
    pub fn outlook_scope(self) -> String {
        format!("{}/.default", self.outlook())
    }

    /// The name in settings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "Public",
            Self::UsGovernment => "UsGovernment",
            Self::UsDefense => "UsDefense",
            Self::China => "China",
        }
    }
}

impl fmt::Display for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Cloud {
    type Err = String;
    /// Letter case does not count.
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|c| c.as_str().eq_ignore_ascii_case(text)).ok_or_else(|| {
            format!(
                "the cloud {text:?} is not known; there are {}",
                Self::ALL.map(Self::as_str).join(", ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cloud_has_its_own_addresses() {
        for cloud in Cloud::ALL {
            assert_eq!(cloud.to_string().to_lowercase().parse(), Ok(cloud));
            for scope in [cloud.graph_scope(), cloud.outlook_scope()] {
                assert!(scope.starts_with("https://") && scope.ends_with("/.default"), "{scope}");
                let others = Cloud::ALL.into_iter().filter(|&other| other != cloud);
                for other in others {
                    assert!(scope != other.graph_scope() && scope != other.outlook_scope(), "{scope}");
                }
            }
        }
        assert!("Germany".parse::<Cloud>().unwrap_err().contains("UsDefense"));
    }
}
