//! Tickets from the outside: a client that speaks the protocol by itself, and lies.
//!
//! Covers: a ticket that was altered, one at a keeper that it does not name, for more bytes, for another operation, with a
//! relay that it does not allow; one to write that is used again, also after its keeper was started again; after all of it
//! the file is what the one good upload made it.

use std::net::TcpStream;

use dfs_proto::error::ErrorCode;
use dfs_proto::pb::{self, mount_reply, mount_request::Op};
use dfs_tests::bench_master::mounts::Mount;
use dfs_tests::wait::secs;
use dfs_tests::wire::{altered, read, upload};
use dfs_tests::{Cluster, wait_until};
use prost::bytes::Bytes;

const CONTENT: &[u8] = b"what is stored under the ticket";

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_allows_what_it_says_once() {
    let mut cluster = Cluster::builder().keepers(2).copies(1).min_copies(1).start();
    let mut mount = Mount::connect(&format!("http://{}", cluster.address())).await;
    let create =
        pb::Create { parent: 1, name: Bytes::from_static(b"file"), mode: 0o644, ..Default::default() };
    let inode = mount.inode(Op::Create(create)).await;
    let runs = vec![pb::Run { file_offset: 0, length: CONTENT.len() as u64 }];
    let alloc = pb::Alloc { inode, runs, mtime: Some(pb::Time::now()), ..Default::default() };
    let mount_reply::Result::Placed(placed) = mount.call(Op::Alloc(alloc)).await else { panic!("no place") };
    let grant = placed.grant.unwrap();
    let named = &grant.keepers[0];
    let rows = [cluster.keeper_row(0), cluster.keeper_row(1)];
    let index = usize::from(rows[0]["keeper"].as_u64() != Some(named.keeper));
    let here = named.address.clone();
    let elsewhere = rows[1 - index]["address"].as_str().unwrap();
    let good = pb::WriteOpen { ticket: grant.ticket.clone(), mac: named.mac.clone(), ..Default::default() };
    let other_keeper = pb::KeeperGrant {
        keeper: rows[1 - index]["keeper"].as_u64().unwrap(),
        address: elsewhere.to_owned(),
        ..Default::default()
    };

    // Each byte of the ticket counts.
    for at in 0..grant.ticket.len() {
        let open = pb::WriteOpen { ticket: altered(&grant.ticket, at), ..good.clone() };
        assert_eq!(upload(&cluster, &here, open, CONTENT), Err(ErrorCode::TicketForged), "byte {at}");
    }
    let long = [CONTENT, b"!"].concat();
    let lies = [
        (
            "another MAC",
            &here[..],
            pb::WriteOpen { mac: altered(&named.mac, 0), ..good.clone() },
            ErrorCode::TicketForged,
        ),
        ("no MAC", &here, pb::WriteOpen { mac: Bytes::new(), ..good.clone() }, ErrorCode::TicketForged),
        ("another keeper", elsewhere, good.clone(), ErrorCode::TicketForged),
        (
            "a relay",
            &here,
            pb::WriteOpen { relay: vec![other_keeper], ..good.clone() },
            ErrorCode::TicketWrong,
        ),
    ];
    for (lie, address, open, code) in lies {
        assert_eq!(upload(&cluster, address, open, CONTENT), Err(code), "{lie}");
    }
    assert_eq!(upload(&cluster, &here, good.clone(), &long), Err(ErrorCode::TicketWrong), "more bytes");
    let as_read = read(&cluster, &here, &good.ticket, &good.mac, CONTENT.len());
    assert_eq!(as_read, Err(ErrorCode::TicketWrong), "a read");

    // None of that has used it.
    assert_eq!(upload(&cluster, &here, good.clone(), CONTENT), Ok(()));
    mount.uploaded(placed.chunk).await;
    assert_eq!(upload(&cluster, &here, good.clone(), CONTENT), Err(ErrorCode::TicketUsed));
    let others = vec![b'x'; CONTENT.len()];
    assert_eq!(upload(&cluster, &here, good.clone(), &others), Err(ErrorCode::TicketUsed));
    // A keeper that starts has forgotten what it took, and so takes nothing that is older than it.
    cluster.keeper(index).kill();
    cluster.keeper(index).restart();
    cluster.wait_live(2);
    let again = cluster.keeper_row(index)["address"].as_str().unwrap().to_owned();
    wait_until(secs(10), "the keeper listens", || TcpStream::connect(&again).is_ok());
    assert_eq!(upload(&cluster, &again, good, &others), Err(ErrorCode::TicketUsed));
    let ran = cluster.dfs(&["get", "/file", "-"]).ok();
    assert_eq!(ran.stdout.as_bytes(), CONTENT);
}
