//! Upper limit of the throughput: one read from the source, one write to the store, 256 KiB at a time, on blocking
//! sockets. No checks, no parts, no retries.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use crate::{BenchResult, certificates};

/// Size of a read in bytes.
const CHUNK_BYTES: usize = 256 << 10;

trait Socket: Read + Write + Send {}
impl<T: Read + Write + Send> Socket for T {}

/// Copies `objects` bodies of `bytes` from `FROM/plain/BYTES` to `TO/bench/relay-N`, `at_once` concurrently.
pub fn run(from: &str, to: &str, ca: &str, bytes: u64, objects: u64, at_once: u64) -> BenchResult {
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once.min(objects))
            .map(|_| {
                scope.spawn(|| -> BenchResult {
                    let (mut source, mut store) = (connect(from, ca)?, connect(to, ca)?);
                    let mut piece = vec![0; CHUNK_BYTES];
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= objects {
                            return Ok(());
                        }
                        relay_object(&mut *source, &mut *store, &mut piece, bytes, n)?;
                    }
                })
            })
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| "a worker panicked")?)
    })
}

fn connect(url: &str, ca: &str) -> BenchResult<Box<dyn Socket>> {
    let (scheme, host) = url.split_once("://").ok_or("invalid URL")?;
    let stream = TcpStream::connect(host)?;
    stream.set_nodelay(true)?;
    if scheme == "http" {
        return Ok(Box::new(stream));
    }
    let session = ClientConnection::new(certificates::client(ca)?, ServerName::try_from("127.0.0.1")?)?;
    Ok(Box::new(StreamOwned::new(session, stream)))
}

fn relay_object(source: &mut dyn Socket, store: &mut dyn Socket, piece: &mut [u8], bytes: u64, n: u64) -> BenchResult {
    write!(source, "GET /plain/{bytes} HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let (mut filled, mut left) = read_head(source, piece)?;
    write!(
        store,
        "PUT /bench/relay-{n} HTTP/1.1\r\nHost: x\r\nContent-Length: {left}\r\n\r\n"
    )?;
    while left > 0 {
        if filled == 0 {
            filled = source.read(piece)?;
        }
        if filled == 0 {
            return Err("the body of the source is truncated".into());
        }
        store.write_all(&piece[..filled])?;
        left -= filled as u64;
        filled = 0;
    }
    store.flush()?;
    read_head(store, piece)?;
    Ok(())
}

/// Reads a head, and moves the start of the body to the front of `piece`. Returns its length and that of the body.
fn read_head(from: &mut dyn Socket, piece: &mut [u8]) -> BenchResult<(usize, u64)> {
    let mut filled = 0;
    loop {
        let read = from.read(&mut piece[filled..])?;
        if read == 0 {
            return Err("connection closed before a response".into());
        }
        filled += read;
        if let Some(at) = piece[..filled].windows(4).position(|four| four == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&piece[..at]).to_ascii_lowercase();
            if !text.starts_with("http/1.1 200") {
                return Err(text.into());
            }
            let length = text
                .split("content-length: ")
                .nth(1)
                .and_then(|rest| rest.lines().next()?.parse().ok());
            piece.copy_within(at + 4..filled, 0);
            return Ok((filled - at - 4, length.unwrap_or(0)));
        }
    }
}
