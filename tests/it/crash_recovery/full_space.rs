//! A space that is nearly full of a user's sessions.

use anyhow::{Result, ensure};
use eventexport::simulator::{DEFAULT_PERSON, SESSION_LIMIT};
use jiff::ToSpan as _;
use jiff::civil::{Date, date};

use super::{check_archive, environment, june, operator};
use crate::testkit::manifest::SPACE;
use crate::testkit::service::{open_ids, service_on};

#[tokio::test(flavor = "multi_thread")]
async fn thirty_days_are_exported_while_a_user_holds_28_of_30_sessions() -> Result<()> {
    let mut settings = service_on(date(2018, 7, 2));
    settings.volume.quiet.clear();
    let fixture = environment("full", settings).await?;
    let manual_sessions = fixture.simulator.open_sessions_as(DEFAULT_PERSON, SPACE, 28);
    fixture
        .apply(&june(&fixture, "2018-06-01", "2018-06-30", 4))
        .await?;
    let _operator = operator(&fixture)?;
    let object = fixture.wait_complete("june").await?;
    let status = &object["status"];
    ensure!(status["windows"]["stored"] == 30, "{status:#}");
    let days: Vec<Date> = date(2018, 6, 1).series(1.day()).take(30).collect();
    check_archive(&fixture, &days).await?;

    let open = open_ids(&fixture.simulator);
    ensure!(
        open.len() == 28 && manual_sessions.iter().all(|id| open.contains(id)),
        "theirs are untouched"
    );
    let ledger = fixture.simulator.ledger();
    ensure!((ledger.other_users_open, ledger.other_users_deleted) == (28, 0));
    let most = usize::try_from(ledger.max_open)?;
    ensure!(most > 28 && most <= SESSION_LIMIT, "{most} were open at once");
    println!(
        "at most {most} of {SESSION_LIMIT} open, {} refused; {} opened",
        ledger.refused_at_capacity, ledger.opened
    );
    Ok(())
}
