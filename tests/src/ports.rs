//! Where the processes of a test listen, by what the kernel says, whatever they say themselves.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::process::Pid;

use crate::scratch::Scratch;

const PROGRAMS: [&str; 4] = ["dfs-master", "dfs-keeper", "dfs-mount", "dfs"];
const TCP_LISTENS: &str = "0A";
const UDP_UNCONNECTED: &str = "07";

/// A port that somebody can reach, of a program.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Port {
    /// `dfs-master`, ...
    pub program: &'static str,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// HOST:PORT.
    pub address: String,
}

/// All that the processes of this scratch listen on.
pub fn listening(scratch: &Scratch) -> BTreeSet<Port> {
    let mut ports = BTreeSet::new();
    for program in PROGRAMS {
        let guards = if program == "dfs-mount" { scratch.guards() } else { Vec::new() };
        for pid in scratch.pids(program).into_iter().chain(guards) {
            of_process(pid, program, &mut ports);
        }
    }
    ports
}

fn of_process(pid: Pid, program: &'static str, ports: &mut BTreeSet<Port>) {
    let dir = format!("/proc/{}", pid.as_raw_nonzero());
    let files = fs::read_dir(format!("{dir}/fd")).into_iter().flatten().flatten();
    let sockets: BTreeSet<String> = files
        .filter_map(|file| {
            let leads = fs::read_link(file.path()).ok()?;
            Some(leads.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect();
    for (table, protocol, state) in [
        ("tcp", "tcp", TCP_LISTENS),
        ("tcp6", "tcp", TCP_LISTENS),
        ("udp", "udp", UDP_UNCONNECTED),
        ("udp6", "udp", UDP_UNCONNECTED),
    ] {
        // Where there is no IPv6, there is no such table.
        let text = fs::read_to_string(format!("{dir}/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (local, is, inode) = (words[1], words[3], words[9]);
            if is == state && sockets.contains(inode) {
                ports.insert(Port { program, protocol, address: address(local).to_string() });
            }
        }
    }
}

/// As the kernel writes it: hexadecimal words in the machine's order.
fn address(text: &str) -> SocketAddr {
    let (host, port) = text.split_once(':').unwrap();
    let port = u16::from_str_radix(port, 16).unwrap();
    let bytes: Vec<u8> = (0..host.len())
        .step_by(8)
        .flat_map(|at| u32::from_str_radix(&host[at..at + 8], 16).unwrap().to_ne_bytes())
        .collect();
    match <[u8; 4]>::try_from(&bytes[..]) {
        Ok(four) => (Ipv4Addr::from(four), port).into(),
        Err(_) => (Ipv6Addr::from(<[u8; 16]>::try_from(bytes).unwrap()), port).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn ones_own_ports_are_found() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut found = BTreeSet::new();
        of_process(rustix::process::getpid(), "dfs", &mut found);
        for (protocol, address) in [("tcp", tcp.local_addr().unwrap()), ("udp", udp.local_addr().unwrap())] {
            let port = Port { program: "dfs", protocol, address: address.to_string() };
            assert!(found.contains(&port), "{port:?} is not in {found:?}");
        }
    }
}
