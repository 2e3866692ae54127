//! A network of its own for one test: each host is a network namespace, all are joined by a switch, and what one
//! sends to another can be cut off without a word: nobody is told, no connection is reset.
//!
//! A host sends into a cut by the link address of a machine that is not there. That needs nothing but `ip`, is
//! one-way by nature, and holds for connections that are there as well as for new ones. The namespaces are files below
//! the scratch directory, so its watchdog takes them away with the mounts; they end with their last process.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use crate::run::run;
use crate::scratch::Scratch;
use crate::wait::secs;

/// Nobody has this link address.
const NOWHERE: &str = "02:d5:ff:ff:ff:ff";

/// The hosts of one test and their links.
#[derive(Debug)]
pub struct Network {
    dir: PathBuf,
    hosts: Vec<String>,
}

impl Network {
    /// A switch with no host yet. For root alone.
    pub fn new(scratch: &Scratch) -> Network {
        crate::require_root();
        let dir = scratch.path("net");
        fs::create_dir(&dir).unwrap();
        let network = Network { dir, hosts: Vec::new() };
        network.make("switch");
        network.inside("switch", "ip link add switch type bridge");
        network.inside("switch", "ip link set switch up");
        network
    }

    /// One more host; returns its address.
    pub fn add(&mut self, name: &str) -> String {
        assert!(!self.has(name), "host {name} is there already");
        self.hosts.push(name.to_owned());
        let (number, address) = (self.hosts.len(), self.address(name));
        self.make(name);
        let switch = self.file("switch").display().to_string();
        for line in [
            format!("ip link add eth0 type veth peer name port{number} netns {switch}"),
            "ip link set lo up".to_owned(),
            format!("ip addr add {address}/24 dev eth0"),
            "ip link set eth0 up".to_owned(),
        ] {
            self.inside(name, &line);
        }
        self.inside("switch", &format!("ip link set port{number} master switch up"));
        address
    }

    /// Is there a host of this name?
    pub fn has(&self, name: &str) -> bool {
        self.hosts.iter().any(|host| host == name)
    }

    /// A host's address.
    pub fn address(&self, name: &str) -> String {
        let at = self.hosts.iter().position(|host| host == name);
        format!("10.77.0.{}", at.unwrap_or_else(|| panic!("no host {name}")) + 1)
    }

    /// What a command line has to begin with to run on that host.
    pub fn on(&self, name: &str) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net={}", self.file(name).display())]
    }

    /// What `from` sends does not reach `to` any more.
    pub fn cut_one_way(&self, from: &str, to: &str) {
        let to = self.address(to);
        self.inside(from, &format!("ip neigh replace {to} lladdr {NOWHERE} dev eth0 nud permanent"));
    }

    /// The two do not reach each other any more.
    pub fn cut(&self, one: &str, other: &str) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// The host reaches nobody any more, and nobody reaches it.
    pub fn isolate(&self, name: &str) {
        self.hosts.iter().filter(|host| *host != name).for_each(|host| self.cut(name, host));
    }

    /// The two reach each other again.
    pub fn heal(&self, one: &str, other: &str) {
        for (from, to) in [(one, other), (other, one)] {
            let to = self.address(to);
            // Hosts that were not cut off must not notice.
            if !self.inside(from, &format!("ip neigh show {to} dev eth0 nud permanent")).trim().is_empty() {
                self.inside(from, &format!("ip neigh del {to} dev eth0"));
            }
        }
    }

    /// Everybody reaches everybody again.
    pub fn heal_all(&self) {
        for (n, one) in self.hosts.iter().enumerate() {
            self.hosts[n + 1..].iter().for_each(|other| self.heal(one, other));
        }
    }

    /// What the host sends goes no faster than this, as tc(8) has it: `8mbit`.
    pub fn slow(&self, name: &str, rate: &str) {
        let line = format!("tc qdisc replace dev eth0 root tbf rate {rate} burst 64kb latency 200ms");
        self.inside(name, &line);
    }

    /// It goes as fast as it can again.
    pub fn fast(&self, name: &str) {
        self.inside(name, "tc qdisc del dev eth0 root");
    }

    /// All connections that there are between the two are reset, whatever they are in the middle of.
    pub fn reset(&self, one: &str, other: &str) {
        self.inside(one, &format!("ss -K -t dst {}", self.address(other)));
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn make(&self, name: &str) {
        let file = self.file(name);
        File::create(&file).unwrap();
        let net = format!("--net={}", file.display());
        run(Command::new("unshare").args([net.as_str(), "true"]), secs(10)).ok();
    }

    /// What the command wrote.
    fn inside(&self, name: &str, line: &str) -> String {
        let on = self.on(name);
        run(Command::new(&on[0]).args(&on[1..]).args(line.split(' ')), secs(10)).ok().stdout
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    use super::*;
    use crate::wait_until;

    fn reaches(network: &Network, from: &str, to: &str) -> bool {
        let on = network.on(from);
        let script = format!("exec 3<>/dev/tcp/{}/7", network.address(to));
        let mut command = Command::new(&on[0]);
        command.args(&on[1..]).args(["timeout", "0.5", "bash", "-c", &script]);
        let ran = run(&mut command, secs(10));
        // Nobody listens: who is reached says so at once, and who is not says nothing.
        ran.stderr.contains("refused")
    }

    #[test]
    fn connections_are_reset() {
        let scratch = Scratch::new();
        let mut network = Network::new(&scratch);
        ["a", "b"].iter().for_each(|name| assert!(network.add(name).starts_with("10.")));
        wait_until(secs(5), "the switch learns", || reaches(&network, "a", "b"));
        let python = |host: &str, script: &str| {
            let on = network.on(host);
            let mut program = scratch.program(&on[0]);
            program.args(&on[1..]).args(["python3", "-c", script, &network.address("b")]);
            program.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
        };
        let server = "import socket\nserver = socket.create_server(('', 7)); print('ready', flush=True)\n\
            one = server.accept()[0]; print('accepted', flush=True)\n\
            try: one.recv(1); print('end')\nexcept ConnectionResetError: print('reset')";
        let mut server = python("b", server);
        let mut said = BufReader::new(server.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert_eq!(said.next().unwrap(), "ready");
        let client =
            "import socket, sys, time\ns = socket.create_connection((sys.argv[1], 7)); time.sleep(60)";
        let mut client = python("a", client);
        assert_eq!(said.next().unwrap(), "accepted");
        network.reset("a", "b");
        assert_eq!(said.next().unwrap(), "reset");
        client.kill().unwrap();
        client.wait().unwrap();
        server.wait().unwrap();
    }

    #[test]
    fn hosts_reach_each_other_but_for_cuts() {
        let scratch = Scratch::new();
        let mut network = Network::new(&scratch);
        ["a", "b", "c"].iter().for_each(|name| assert!(network.add(name).starts_with("10.")));
        for (from, to) in [("a", "b"), ("b", "a"), ("a", "c"), ("c", "b")] {
            wait_until(secs(5), "the switch learns", || reaches(&network, from, to));
        }
        network.cut("a", "b");
        assert!(!reaches(&network, "a", "b") && !reaches(&network, "b", "a"));
        assert!(reaches(&network, "a", "c") && reaches(&network, "c", "b"));
        network.heal("a", "b");
        wait_until(secs(5), "healed", || reaches(&network, "a", "b") && reaches(&network, "b", "a"));
        network.isolate("c");
        assert!(!reaches(&network, "a", "c") && !reaches(&network, "c", "b"));
        network.heal_all();
        wait_until(secs(5), "healed", || reaches(&network, "a", "c") && reaches(&network, "c", "b"));
    }
}
