//! Every response to a resume request (protocol: "resume on the wire"), in the interrupted process and in a new one
//! after a kill.

use std::fs;

use eventexport::simulator::{Effect, Fault, RangeReply, RequestKind};
use jiff::civil::date;

use super::fixture::{DownloadFixture, gunzip, settings, wait_for};

const FILE: &str = "events.json.gz";

/// Outcome of a resume behavior.
#[derive(Clone, Copy, Debug, PartialEq)]
enum ResumeOutcome {
    /// The download continues after the existing bytes.
    Resumed,
    /// The service sends everything again; the download continues if the bytes match.
    Compared,
    /// The download restarts.
    Restarted,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_download_completes_for_any_resume_response() {
    use ResumeOutcome::{Compared, Restarted, Resumed};
    for (preset, outcome) in [
        ("cut", Resumed),
        ("cut-reset", Resumed),
        ("cut-chunked", Resumed),
        ("cut-close-delimited", Resumed),
        ("cut-at-member-end", Resumed),
        ("cut-close-delimited-at-member-end", Resumed),
        ("token-expires-mid-download", Resumed),
        ("resume-whole", Compared),
        ("resume-wrong-offset", Restarted),
        ("resume-lie", Restarted),
        ("resume-remainder", Restarted),
        ("resume-416", Restarted),
        ("resume-other-bytes", Resumed),
        ("resume-error", Restarted),
    ] {
        let fixture = DownloadFixture::new(settings()).await;
        fixture.set_faults(&[preset]);
        let day = date(2018, 6, 28);
        let id = fixture.session(day).await;
        let ended = fixture.download(&["-o", FILE, &id]).await.expect_exit(0);
        assert_eq!(fixture.files(), [FILE], "{preset}");
        let bytes = fs::read(fixture.path(FILE)).unwrap();
        let served = fixture.served(day);
        match preset {
            // Same events in different bytes or members.
            "resume-other-bytes" | "cut-at-member-end" | "cut-close-delimited-at-member-end" => {
                assert!(gunzip(&bytes) == gunzip(&served), "{preset}");
            }
            _ => assert!(bytes == served, "{preset}"),
        }
        let downloads = fixture.simulator.ledger().downloads_of("2018-06-28");
        let whole = bytes.len() as u64;
        match outcome {
            // A reset discards received but unread bytes, so some are sent twice.
            Resumed if preset == "cut-reset" => {
                assert_eq!(downloads.resumed, 1, "{preset}");
                assert!((whole..2 * whole).contains(&downloads.bytes), "{downloads:?}");
            }
            Resumed => assert_eq!((downloads.resumed, downloads.bytes), (1, whole), "{preset}"),
            Compared => assert_eq!(downloads.replies, 2, "{preset}"),
            Restarted => assert!(
                ended.err.contains("again from its start"),
                "{preset}: {}",
                ended.err
            ),
        }
        assert_eq!(
            fixture.simulator.ledger().violations,
            Vec::<String>::new(),
            "{preset}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_download_completes_for_any_resume_response() {
    use ResumeOutcome::{Compared, Restarted, Resumed};
    for (how, outcome) in [
        (RangeReply::Right, Resumed),
        (RangeReply::Whole, Compared),
        (RangeReply::WrongOffset, Restarted),
        (RangeReply::Lie, Restarted),
        (RangeReply::Remainder, Restarted),
        (RangeReply::Status(416), Restarted),
        (RangeReply::Status(403), Restarted),
        (RangeReply::Status(500), Restarted),
    ] {
        let mut slow = settings();
        slow.bandwidth = Some(60_000);
        let fixture = DownloadFixture::new(slow).await;
        let day = date(2018, 6, 28);
        let id = fixture.session(day).await;
        let mut child = fixture.command(&["-o", FILE, &id]).spawn().unwrap();
        fixture.until("events.json.gz.part", 12_000).await;
        child.kill().await.unwrap();
        assert!(!fixture.path(FILE).exists());
        wait_for(|| fixture.simulator.ledger().downloads_of("2018-06-28").replies == 1).await;
        let had = fs::metadata(fixture.path("events.json.gz.part")).unwrap().len();

        let fault = Fault::new("resume", Effect::ResumeAs { how }, &[RequestKind::Download]);
        fixture.simulator.set_faults(vec![fault]);
        let before = fixture.simulator.ledger().downloads_of("2018-06-28");
        let ended = fixture.download(&["-o", FILE, &id]).await.expect_exit(0);
        assert!(
            fs::read(fixture.path(FILE)).unwrap() == fixture.served(day),
            "{how:?}"
        );
        assert_eq!(fixture.files(), [FILE], "{how:?}");
        let after = fixture.simulator.ledger().downloads_of("2018-06-28");
        let sent = after.bytes - before.bytes;
        let whole = fixture.served(day).len() as u64;
        match outcome {
            Resumed => assert_eq!(sent, whole - had, "{how:?}"),
            Compared => assert_eq!(sent, whole, "{how:?}"),
            Restarted => assert!(
                ended.err.contains("again from its start"),
                "{how:?}: {}",
                ended.err
            ),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_part_file_is_not_resumed() {
    let mut slow = settings();
    slow.bandwidth = Some(60_000);
    let fixture = DownloadFixture::new(slow).await;
    let day = date(2018, 6, 28);
    let id = fixture.session(day).await;
    let mut child = fixture.command(&["-o", FILE, &id]).spawn().unwrap();
    fixture.until("events.json.gz.part", 12_000).await;
    child.kill().await.unwrap();
    // State after a machine crash: the length is right, the bytes are not.
    let part = fixture.path("events.json.gz.part");
    let mut bytes = fs::read(&part).unwrap();
    bytes[6_000..].fill(0);
    fs::write(&part, bytes).unwrap();
    let ended = fixture.download(&["-o", FILE, &id]).await.expect_exit(0);
    assert!(
        fs::read(fixture.path(FILE)).unwrap() == fixture.served(day),
        "{}",
        ended.err
    );

    // Complete, but not yet renamed: nothing is requested again.
    fs::remove_file(fixture.path(FILE)).unwrap();
    let id = fixture.session(day).await;
    let mut child = fixture.command(&["-o", FILE, &id]).spawn().unwrap();
    fixture.until("events.json.gz.part", 12_000).await;
    child.kill().await.unwrap();
    fs::write(&part, fixture.served(day)).unwrap();
    let before = fixture.simulator.ledger().requests_of(RequestKind::Download);
    fixture.download(&["-o", FILE, &id]).await.expect_exit(0);
    assert_eq!(
        fixture.simulator.ledger().requests_of(RequestKind::Download),
        before
    );
    assert!(fs::read(fixture.path(FILE)).unwrap() == fixture.served(day));
}
