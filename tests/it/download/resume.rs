//! Every answer to a request to go on (protocol: "resume on the wire"), in the process that was cut and in one that comes
//! after a kill.

use std::fs;

use eventexport::simulator::{Effect, Fault, Kind, Resume};
use jiff::civil::date;

use super::scene::{Scene, gunzip, settings, wait_for};

const FILE: &str = "events.json.gz";

/// What a behaviour leads to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Leads {
    /// The download goes on behind what is there.
    On,
    /// The service sends all of it again, and it goes on where that agrees.
    Compared,
    /// It begins anew by itself.
    Anew,
    /// Not to the end; the same command goes on once the service behaves.
    Stopped,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_download_comes_whole_whatever_the_service_makes_of_it() {
    use Leads::{Anew, Compared, On, Stopped};
    for (preset, leads) in [
        ("cut", On),
        ("cut-reset", On),
        ("cut-chunked", On),
        ("cut-close-delimited", On),
        ("cut-at-member-end", On),
        ("cut-close-delimited-at-member-end", On),
        ("token-expires-mid-download", On),
        ("resume-whole", Compared),
        ("resume-wrong-offset", Anew),
        ("resume-lie", Anew),
        ("resume-remainder", Anew),
        ("resume-416", Anew),
        ("resume-other-bytes", On),
        ("resume-error", Stopped),
    ] {
        let scene = Scene::new(settings()).await;
        scene.misbehave(&[preset]);
        let day = date(2018, 6, 28);
        let id = scene.session(day).await;
        let ended = scene
            .download(&["-o", FILE, &id])
            .await
            .ended(i32::from(leads == Stopped));
        if leads == Stopped {
            assert!(ended.err.contains("goes on behind"), "{preset}: {}", ended.err);
            scene.misbehave(&[]);
            scene.download(&["-o", FILE, &id]).await.ended(0);
        }
        assert_eq!(scene.files(), [FILE], "{preset}");
        let bytes = fs::read(scene.path(FILE)).unwrap();
        let served = scene.served(day);
        match preset {
            // The same events in other bytes, or in other members.
            "resume-other-bytes" | "cut-at-member-end" | "cut-close-delimited-at-member-end" => {
                assert!(gunzip(&bytes) == gunzip(&served), "{preset}");
            }
            _ => assert!(bytes == served, "{preset}"),
        }
        let downloads = scene.simulator.ledger().downloads_of("2018-06-28");
        let whole = bytes.len() as u64;
        match leads {
            // A reset throws away what had come and was not read yet, so some of it is sent twice.
            On if preset == "cut-reset" => {
                assert_eq!(downloads.resumed, 1, "{preset}");
                assert!((whole..2 * whole).contains(&downloads.bytes), "{downloads:?}");
            }
            On | Stopped => assert_eq!((downloads.resumed, downloads.bytes), (1, whole), "{preset}"),
            Compared => assert_eq!(downloads.answers, 2, "{preset}"),
            Anew => assert!(
                ended.err.contains("again from its start"),
                "{preset}: {}",
                ended.err
            ),
        }
        assert_eq!(
            scene.simulator.ledger().violations,
            Vec::<String>::new(),
            "{preset}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_download_comes_whole_whatever_the_service_makes_of_it() {
    use Leads::{Anew, Compared, On, Stopped};
    for (how, leads) in [
        (Resume::Right, On),
        (Resume::Whole, Compared),
        (Resume::WrongOffset, Anew),
        (Resume::Lie, Anew),
        (Resume::Remainder, Anew),
        (Resume::Status(416), Anew),
        (Resume::Status(403), Anew),
        (Resume::Status(500), Stopped),
    ] {
        let mut slow = settings();
        slow.bandwidth = Some(60_000);
        let scene = Scene::new(slow).await;
        let day = date(2018, 6, 28);
        let id = scene.session(day).await;
        let mut child = scene.command(&["-o", FILE, &id]).spawn().unwrap();
        scene.until("events.json.gz.part", 12_000).await;
        child.kill().await.unwrap();
        assert!(!scene.path(FILE).exists());
        wait_for(|| scene.simulator.ledger().downloads_of("2018-06-28").answers == 1).await;
        let had = fs::metadata(scene.path("events.json.gz.part")).unwrap().len();

        let fault = Fault::new("resume", Effect::ResumeAs { how }, &[Kind::Download]);
        scene.simulator.set_faults(vec![fault]);
        let before = scene.simulator.ledger().downloads_of("2018-06-28");
        let ended = scene
            .download(&["-o", FILE, &id])
            .await
            .ended(i32::from(leads == Stopped));
        if leads == Stopped {
            scene.misbehave(&[]);
            scene.download(&["-o", FILE, &id]).await.ended(0);
        }
        assert!(
            fs::read(scene.path(FILE)).unwrap() == scene.served(day),
            "{how:?}"
        );
        assert_eq!(scene.files(), [FILE], "{how:?}");
        let after = scene.simulator.ledger().downloads_of("2018-06-28");
        let sent = after.bytes - before.bytes;
        let whole = scene.served(day).len() as u64;
        match leads {
            On | Stopped => assert_eq!(sent, whole - had, "{how:?}"),
            Compared => assert_eq!(sent, whole, "{how:?}"),
            Anew => assert!(
                ended.err.contains("again from its start"),
                "{how:?}: {}",
                ended.err
            ),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_was_damaged_meanwhile_is_not_built_upon() {
    let mut slow = settings();
    slow.bandwidth = Some(60_000);
    let scene = Scene::new(slow).await;
    let day = date(2018, 6, 28);
    let id = scene.session(day).await;
    let mut child = scene.command(&["-o", FILE, &id]).spawn().unwrap();
    scene.until("events.json.gz.part", 12_000).await;
    child.kill().await.unwrap();
    // As a crash of the machine leaves it: the length is there, the bytes are not.
    let part = scene.path("events.json.gz.part");
    let mut bytes = fs::read(&part).unwrap();
    bytes[6_000..].fill(0);
    fs::write(&part, bytes).unwrap();
    let ended = scene.download(&["-o", FILE, &id]).await.ended(0);
    assert!(
        fs::read(scene.path(FILE)).unwrap() == scene.served(day),
        "{}",
        ended.err
    );

    // All of it there, but not yet at its name: nothing is asked for again.
    fs::remove_file(scene.path(FILE)).unwrap();
    let id = scene.session(day).await;
    let mut child = scene.command(&["-o", FILE, &id]).spawn().unwrap();
    scene.until("events.json.gz.part", 12_000).await;
    child.kill().await.unwrap();
    fs::write(&part, scene.served(day)).unwrap();
    let before = scene.simulator.ledger().requests_of(Kind::Download);
    scene.download(&["-o", FILE, &id]).await.ended(0);
    assert_eq!(scene.simulator.ledger().requests_of(Kind::Download), before);
    assert!(fs::read(scene.path(FILE)).unwrap() == scene.served(day));
}
