//! Malicious replies for any request.

use std::time::Duration;

use super::peer::Payload;

/// Unlimited repetitions.
const ENDLESS: u64 = u64::MAX;
/// Head of a successful reply whose body ends with the connection.
const CLOSE_DELIMITED_HEAD: &str =
    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\n\r\n";
/// Head of a successful chunked reply.
const CHUNKED_HEAD: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Returns the payloads with their names. None is a valid reply to any request.
pub(super) fn malicious_payloads() -> Vec<(&'static str, Payload)> {
    let raw = |text: &str| Payload::raw(text);
    let nested = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    let page = "<p>Service Unavailable</p>".repeat(10 * 1024 * 1024 / 26);
    let header = |bytes: usize| {
        format!(
            "HTTP/1.1 200 OK\r\nX-Long: {}\r\nContent-Length: 4\r\n\r\nnope",
            "a".repeat(bytes)
        )
    };
    vec![
        ("headers of 1 MiB", raw(&header(1 << 20))),
        ("a header of 64 KiB and nonsense", raw(&header(64 << 10))),
        (
            "headers without end",
            raw("HTTP/1.1 200 OK\r\n").repeat("X-More: and more\r\n".repeat(500), ENDLESS),
        ),
        (
            "a body without end",
            raw(CLOSE_DELIMITED_HEAD).repeat(vec![b'['; 64 << 10], ENDLESS),
        ),
        (
            "a chunked body without end",
            raw(CHUNKED_HEAD).repeat(format!("4000\r\n{}\r\n", " ".repeat(0x4000)), ENDLESS),
        ),
        (
            "an error without end",
            raw("HTTP/1.1 500 No\r\nConnection: close\r\n\r\n").repeat(vec![b'x'; 64 << 10], ENDLESS),
        ),
        (
            "a refusal without end",
            raw("HTTP/1.1 400 No\r\nConnection: close\r\n\r\n").repeat(vec![b'<'; 64 << 10], ENDLESS),
        ),
        ("a page of 10 MiB", Payload::reply("502 Bad Gateway", page)),
        (
            "bytes that are no text",
            Payload::reply(
                "200 OK",
                [&[b'{', b'"'][..], &[0xff, 0xfe, 0xc3, 0x28], b"\":1}"].concat(),
            ),
        ),
        (
            "an error that is no text",
            Payload::reply("400 Bad Request", [0xff, 0xc3, 0x28, 0x1b, b'[', b'2', b'J', 0]),
        ),
        (
            "an error that moves the cursor",
            Payload::reply(
                "403 Forbidden",
                "\u{1b}[2J\u{1b}]0;owned\u{7}\u{202e}txet \u{9b}31mred",
            ),
        ),
        ("JSON nested 100,000 deep", Payload::reply("200 OK", nested)),
        (
            "numbers that no type holds",
            Payload::reply("200 OK", "[{\"id\":\"a\",\"search-time\":1e400}]"),
        ),
        ("nothing", Payload::reply("200 OK", "")),
        (
            "less than announced",
            raw("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n[{\"id\":\"a\"}"),
        ),
        (
            "a length of more than there can be",
            raw("HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n["),
        ),
        (
            "a length that is none",
            raw("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n["),
        ),
        (
            "two lengths",
            raw("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n[]"),
        ),
        (
            "chunks that are none",
            raw(&format!("{CHUNKED_HEAD}zz\r\nnope\r\n")),
        ),
        (
            "a chunk of more than there can be",
            raw(&format!("{CHUNKED_HEAD}fffffffffffffffff\r\nnope")),
        ),
        (
            "a chunk's extension without end",
            raw(&format!("{CHUNKED_HEAD}1;")).repeat(vec![b'e'; 64 << 10], ENDLESS),
        ),
        (
            "trailers without end",
            raw(&format!("{CHUNKED_HEAD}0\r\n")).repeat("X-More: and more\r\n".repeat(500), ENDLESS),
        ),
        (
            "HTTP/1.0 that ends in the middle",
            raw("HTTP/1.0 200 OK\r\n\r\n[{\"id\":"),
        ),
        (
            "interim answers without end",
            raw("").repeat("HTTP/1.1 100 Continue\r\n\r\n".repeat(100), ENDLESS),
        ),
        ("another protocol", raw("SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")),
        ("a status that is none", raw("HTTP/1.1 99999 What\r\n\r\n")),
        (
            "a redirect to a host of 100 KiB",
            raw(&format!(
                "HTTP/1.1 302 Found\r\nLocation: https://{}/\r\nContent-Length: 0\r\n\r\n",
                "a".repeat(100 << 10)
            )),
        ),
        (
            "a head of a byte at a time",
            raw("HTTP/1.1 200")
                .repeat(" ", ENDLESS)
                .with_pause(Duration::from_millis(200)),
        ),
        (
            "a body of a byte at a time",
            raw(CLOSE_DELIMITED_HEAD)
                .repeat("[", ENDLESS)
                .with_pause(Duration::from_millis(200)),
        ),
        ("silence", raw("").keep_open()),
    ]
}
