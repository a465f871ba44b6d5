//! A large download, cut and killed at random points: complete in the end, with hardly a byte sent twice.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::time::{Duration, Instant};

use jiff::civil::date;
use sha2::{Digest as _, Sha256};

use super::fixture::{DownloadFixture, SPACE, home, settings, wait_output};
use crate::testkit::proxy::{Action, ProxiedPeer, Proxy, RequestMatcher, Rule, Rules, wait_injected};

const FILE: &str = "events.json.gz";
const MIB: u64 = 1024 * 1024;

/// Maximum bytes in buffers of sockets and proxy when a connection is cut; they are sent again.
const MAX_IN_FLIGHT_BYTES: u64 = 16 * MIB;

/// Minimum bytes between two cuts.
const MIN_CUT_DISTANCE: u64 = 256 * 1024;

/// Maximum time for all of it.
const TIMEOUT: Duration = Duration::from_mins(15);

/// Random numbers from a seed (`SplitMix64`), so that a failure can be repeated.
struct RandomSequence(u64);

impl RandomSequence {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// Every third cut is a `kill -9`.
const fn is_kill(number: usize) -> bool {
    number % 3 == 2
}

/// Downloads at least this many bytes through ten cuts, every third of which is a `kill -9`.
async fn cut_ten_times(bytes: u64) {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(rand::random::<u64>);
    println!("SEED={seed} repeats this");
    let day = date(2018, 6, 28);
    let mut settings = settings();
    // Uncompressed: as many bytes as events, about 900 each.
    settings.gzip.level = 0;
    settings.volume.days.insert(day, bytes / 900);
    let mut fixture = DownloadFixture::new(settings).await;
    let body = fixture.simulator.body_of(SPACE, false, day, None);
    let (whole, events) = (body.len(), body.events());
    assert!(whole >= bytes, "{whole}");
    let mut sum = Sha256::new();
    body.for_each(|piece| sum.update(&piece));
    let expected = sum.finalize();

    let mut random = RandomSequence(seed);
    let mut places = BTreeSet::new();
    while places.len() < 10 {
        let place = MIN_CUT_DISTANCE + random.below(whole - 2 * MIN_CUT_DISTANCE);
        // No cut hits the requests that a process sends before it resumes the download.
        if places
            .iter()
            .all(|other: &u64| other.abs_diff(place) > MIN_CUT_DISTANCE)
        {
            places.insert(place);
        }
    }
    println!("{whole} bytes, {events} events, cuts after: {places:?}");
    // Each request of a download passes the bytes up to its cut; every third cut holds the connection for a kill.
    let downloads = RequestMatcher::LineContains(ProxiedPeer::Tracker, vec!["GET /v3/events/download"]);
    let starts = [0].into_iter().chain(places.iter().copied());
    let cuts = starts.zip(&places).enumerate().map(|(number, (from, to))| {
        let bytes = usize::try_from(to - from).unwrap();
        let cut = if is_kill(number) {
            Action::HangReplyAfter(bytes)
        } else {
            Action::CutReply(bytes, &[])
        };
        Rule::new(downloads.clone(), cut)
    });
    let service = fixture.simulator.url().as_str();
    let proxy = Proxy::start(ProxiedPeer::Tracker, service, &Rules::new())
        .await
        .unwrap();
    let cuts = proxy.arm_sequence(cuts.collect());
    let (kills, cuts): (Vec<_>, Vec<_>) = cuts
        .into_iter()
        .enumerate()
        .partition(|(number, _)| is_kill(*number));
    fixture.home = home(&proxy.endpoint());

    let id = fixture.session(day).await;
    let arguments = ["-o", FILE, &id, "--output", "json"];
    let begun = Instant::now();
    for (_, held) in kills {
        let mut child = fixture.command(&arguments).spawn().unwrap();
        tokio::select! {
            held = wait_injected(TIMEOUT, held) => drop(held.unwrap()),
            ended = child.wait() => panic!("it ended before it was killed: {ended:?}"),
        }
        child.kill().await.unwrap();
    }
    let summary = wait_output(fixture.command(&arguments).spawn().unwrap())
        .await
        .expect_exit(0)
        .json();
    let passed: u64 = proxy.requests().iter().map(|request| request.reply_bytes).sum();
    println!("{:.1} s, {passed} bytes passed", begun.elapsed().as_secs_f64());

    for (_, mut cut) in cuts {
        assert!(cut.try_recv().is_ok(), "every cut came to pass");
    }
    let mut file = File::open(fixture.path(FILE)).unwrap();
    let (mut sum, mut piece) = (Sha256::new(), vec![0; 1024 * 1024]);
    loop {
        let read = file.read(&mut piece).unwrap();
        if read == 0 {
            break;
        }
        sum.update(&piece[..read]);
    }
    assert!(sum.finalize() == expected, "the file is what the source has");
    assert_eq!(
        (&summary["events"], &summary["bytes"]),
        (&events.into(), &whole.into())
    );
    assert_eq!(summary["sessions"][0]["verdict"], "Matched");
    let downloads = fixture.simulator.ledger().downloads_of("2018-06-28");
    assert_eq!(
        (downloads.replies, downloads.resumed),
        (11, 10),
        "each cut is resumed"
    );
    let most = whole + 10 * MAX_IN_FLIGHT_BYTES;
    assert!(
        downloads.bytes <= most && passed <= most,
        "{} sent, {passed} passed of {whole}",
        downloads.bytes,
    );
    assert_eq!(fixture.simulator.ledger().violations, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_of_2_gib_cut_ten_times_is_resumed_ten_times() {
    cut_ten_times(2048 * MIB).await;
}
