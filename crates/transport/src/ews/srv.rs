//! Looking up SRV records at the name servers of this machine. A resolver crate would bring more than the rest of this adapter; one question in one datagram is
//! all that Autodiscover needs, and what comes back is trusted no more than any redirect.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use email_router_model::{Entropy, SystemEntropy, read_file_capped};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::autodiscover::{SrvLookup, SrvTarget};
use super::proto::dns::{NoAnswer, answer, question};

/// The largest datagram that is read; an answer without extensions has at most 512 bytes.
const LARGEST: usize = 4096;

/// The largest file with name servers that is read, in bytes.
const FILE: u64 = 64 << 10;

/// SRV records from name servers, by UDP.
#[derive(Debug, Clone)]
pub struct NameServers {
    source: Source,
    /// The longest wait for one name server.
    pub patience: Duration,
    /// Where the numbers of questions come from.
    pub entropy: Arc<dyn Entropy>,
}

#[derive(Debug, Clone)]
enum Source {
    File(PathBuf),
    Fixed(Vec<SocketAddr>),
}

impl NameServers {
    /// The name servers that `/etc/resolv.conf` names, read anew for each question; 3 seconds each.
    #[must_use]
    pub fn of_system() -> Self {
        Self::from(Source::File("/etc/resolv.conf".into()))
    }

    /// These name servers, asked in this order; 3 seconds each.
    #[must_use]
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        Self::from(Source::Fixed(servers))
    }

    fn from(source: Source) -> Self {
        Self { source, patience: Duration::from_secs(3), entropy: Arc::new(SystemEntropy) }
    }

    fn servers(&self) -> Result<Vec<SocketAddr>, String> {
        match &self.source {
            Source::Fixed(servers) => Ok(servers.clone()),
            Source::File(path) => {
                let file = read_file_capped(path, FILE).map_err(|e| format!("{}: {e}", path.display()))?;
                Ok(name_servers(&String::from_utf8_lossy(&file)))
            }
        }
    }

    async fn ask(&self, server: SocketAddr, name: &str) -> Result<Vec<SrvTarget>, String> {
        let id = u16::try_from(self.entropy.next_u64() & 0xFFFF).unwrap_or_default();
        let question = question(id, name).ok_or("the name cannot be asked for")?;
        let here: IpAddr =
            if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        // port 0: the system takes one that nobody can guess; connected, so that nobody else's answer is read
        let socket = UdpSocket::bind((here, 0)).await.map_err(|e| e.to_string())?;
        socket.connect(server).await.map_err(|e| e.to_string())?;
        socket.send(&question).await.map_err(|e| e.to_string())?;
        let mut datagram = vec![0; LARGEST];
        let heard = async {
            loop {
                let length = socket.recv(&mut datagram).await.map_err(|e| e.to_string())?;
                match answer(&question, &datagram[..length]) {
                    Err(NoAnswer::Another) => {}
                    other => return other.map_err(|e| e.to_string()),
                }
            }
        };
        match timeout(self.patience, heard).await {
            Ok(found) => found,
            Err(_) => Err(format!("{server} does not answer")),
        }
    }
}

#[async_trait]
impl SrvLookup for NameServers {
    async fn lookup(&self, name: &str) -> Result<Vec<SrvTarget>, String> {
        let mut why = "there is no name server".to_owned();
        for server in self.servers()? {
            match self.ask(server, name).await {
                Ok(targets) => return Ok(targets),
                Err(error) => why = error,
            }
        }
        Err(why)
    }
}

/// The lines `nameserver ADDRESS`; the first three count, as for the C library.
fn name_servers(file: &str) -> Vec<SocketAddr> {
    let addresses = file.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = (words.next()? == "nameserver").then(|| words.next())??;
        address.parse::<IpAddr>().ok()
    });
    addresses.take(3).map(|address| SocketAddr::new(address, 53)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_a_file() {
        let file = "# nameserver 1.1.1.1\nsearch contoso.test\nnameserver 10.0.0.1 # first\n nameserver fd00::1\nnameserver x\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n";
        let found: Vec<_> = name_servers(file).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.1:53", "[fd00::1]:53", "10.0.0.2:53"]);
    }

    #[tokio::test]
    async fn the_next_server_is_asked_where_one_fails() {
        let server = async |code: u8| {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let address = socket.local_addr().unwrap();
            let task = tokio::spawn(async move {
                let mut buffer = [0; 512];
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                let mut reply = buffer[..length].to_vec();
                // noise first: an answer to another question
                socket.send_to(&[0; 12], from).await.unwrap();
                reply[2..4].copy_from_slice(&[0x81, 0x80 | code]);
                if code == 0 {
                    reply[7] = 1;
                    reply.extend_from_slice(&[
                        0xC0, 12, 0, 33, 0, 1, 0, 0, 0, 9, 0, 9, 0, 1, 0, 2, 1, 0xBB, 1, b'm', 0,
                    ]);
                }
                socket.send_to(&reply, from).await.unwrap();
            });
            (address, task)
        };
        let ((bad, first), (good, second)) = (server(2).await, server(0).await);
        let lookup = NameServers::new(vec![bad, good]);
        let found = lookup.lookup("_autodiscover._tcp.contoso.test").await.unwrap();
        assert_eq!(found, [SrvTarget { priority: 1, weight: 2, port: 443, host: "m".to_owned() }]);
        first.await.unwrap();
        second.await.unwrap();
        assert!(NameServers::new(vec![]).lookup("x.test").await.is_err());
    }
}
