//! Manual session commands, as the old command line had them, and protection of foreign sessions.

use super::fixture::{CliFixture, USER};

const PERSON: &str = "person@example.com";

#[tokio::test]
async fn a_session_is_created_shown_listed_and_deleted() {
    let fixture = CliFixture::start(&["--today", "2018-07-02"]).await;
    let create = ["session", "create", "-s", "2018-06-28", "-e", "2018-06-29", "-a"];
    let made = fixture.run(&[&create[..], &["--output", "json"]].concat()).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    let document = made.json();
    assert_eq!(document["schema"], "eventexport.io/session-create/v2");
    assert_eq!(
        document["requested"],
        serde_json::json!({"start": "2018-06-28", "end": "2018-06-29", "hour": null, "account": true})
    );
    assert_eq!(document["session"]["account"], true);
    assert_eq!(document["warnings"], serde_json::json!([]));
    let id = document["session"]["id"].as_str().unwrap();

    let shown = fixture.run(&["session", "show", id]).await;
    for row in [
        "| Name ",
        "| username     | operator@example.com",
        "| date-range   | {\"End\":\"2018-06-29\",\"Start\":\"2018-06-28\"} ",
        "| id           | ",
        "| space        | c1 ",
    ] {
        assert!(shown.out.contains(row), "{row} is not in {shown:?}");
    }
    for (arguments, range) in [
        (&["sessions", "ls"][..], "2018-06-28/29 "),
        (&["sessions", "ls", "-o", "wide"], "2018-06-28/2018-06-29"),
    ] {
        let listed = fixture.run(arguments).await;
        assert!(
            listed.out.contains(id) && listed.out.contains(range),
            "{listed:?}"
        );
    }

    let hour = fixture
        .run(&[
            "session",
            "create",
            "--start",
            "2018-06-28",
            "--hour",
            "7",
            "--output",
            "json",
        ])
        .await
        .json();
    assert_eq!(hour["session"]["hour"], 7);
    let other = hour["session"]["id"].as_str().unwrap();

    let deleted = fixture
        .run(&["session", "delete", id, "never-there", other, "--output", "json"])
        .await;
    assert_eq!(deleted.code, Some(0), "{deleted:?}");
    let results = &deleted.json()["results"];
    assert_eq!(results[0]["result"], "Deleted");
    assert_eq!(results[1]["result"], "NotFound");
    assert_eq!(results[2]["result"], "Deleted");
    assert_eq!(fixture.open_now().await, 0);
    let again = fixture.run(&["session", "delete", id]).await;
    assert_eq!(again.code, Some(0));
    assert!(again.out.contains("not found"), "{again:?}");
    fixture
        .run(&["session", "show", id])
        .await
        .expect_failure(1, &["no session", "session list"]);
}

#[tokio::test]
async fn a_session_without_dates_covers_the_current_utc_day() {
    let fixture = CliFixture::start(&[]).await;
    let day = || {
        jiff::Timestamp::now()
            .to_zoned(jiff::tz::TimeZone::UTC)
            .date()
            .to_string()
    };
    let before = day();
    let made = fixture
        .run(&["session", "create", "--output", "json"])
        .await
        .json();
    let range = &made["session"]["dateRange"];
    assert_eq!(range["start"], range["end"]);
    assert!(
        [before, day()].iter().any(|day| range["start"] == **day),
        "{made}"
    );
}

#[tokio::test]
async fn invalid_dates_are_refused_before_any_request() {
    let fixture = CliFixture::start(&[]).await;
    for (arguments, words) in [
        (&["--start", "2018-02-30"][..], "--start"),
        (
            &["--start", "30.06.2018"],
            "must be a calendar date from 1970-01-01 to 2099-12-31",
        ),
        (
            &["--start", "2018-06-30", "--end", "2018-06-28"],
            "--end: 2018-06-28 is before",
        ),
        (&["--start", "2018-06-01", "--end", "2018-06-16"], "16 days"),
        (&["--hour", "24"], "--hour"),
    ] {
        let made = fixture.run(&[&["session", "create"], arguments].concat()).await;
        made.expect_failure(2, &[words]);
    }
    assert_eq!(fixture.open_now().await, 0);
    fixture
        .run(&["session", "delete", "a b"])
        .await
        .expect_failure(1, &[]);
    fixture
        .run(&["session", "delete"])
        .await
        .expect_failure(2, &["ID"]);
}

#[tokio::test]
async fn a_response_with_other_dates_is_reported() {
    let fixture = CliFixture::start(&["--today", "2018-07-02", "--fault", "range-differs"]).await;
    let made = fixture
        .run(&["session", "create", "--start", "2018-06-28", "-q"])
        .await;
    assert_eq!(made.code, Some(0));
    assert!(
        made.err.contains("warning") && made.err.contains("the session is for 2018-06-27"),
        "{made:?}"
    );
}

#[tokio::test]
async fn a_full_space_error_counts_sessions_by_owner_and_gives_a_remedy() {
    let fixture = CliFixture::start(&[]).await;
    fixture.open_sessions(USER, 28).await;
    fixture.open_sessions(PERSON, 2).await;
    fixture.set_faults(&["list-whole-space"]).await;
    let refused = fixture.run(&["session", "create"]).await;
    refused.expect_failure(
        1,
        &[
            "listed 30 of 30 sessions open",
            "30 unknown (28 of operator@example.com, 2 of person@example.com)",
            "--all-mine-older-than 2h",
        ],
    );
    // If only our own sessions are listed, the rest is not guessed.
    fixture.set_faults(&[]).await;
    let refused = fixture.run(&["session", "create", "--output", "json"]).await;
    refused.expect_failure(1, &["listed 28 of 30 sessions open", "the rest may be of users"]);
    assert_eq!(refused.json()["error"]["exitCode"], 1);
}

#[tokio::test]
async fn only_own_old_and_idle_sessions_are_deleted() {
    let fixture = CliFixture::start(&["--fault", "list-whole-space"]).await;
    let own = fixture.open_sessions(USER, 2).await;
    let foreign = fixture.open_sessions(PERSON, 2).await;
    fixture.age_sessions(3 * 3600).await;
    fixture.open_sessions(USER, 1).await;
    let all = ["session", "delete", "--all-mine-older-than", "2h"];

    // Without a terminal nobody can confirm; the sessions that would be deleted are listed anyway.
    let asked = fixture.run(&all).await;
    asked.expect_failure(
        2,
        &["2 sessions would be deleted", "--yes", &own[0], "another user"],
    );
    let dry = fixture
        .run(&[&all[..], &["--dry-run", "--output", "json"]].concat())
        .await;
    assert_eq!(dry.json()["wouldDelete"].as_array().map(Vec::len), Some(2));
    assert_eq!(fixture.open_now().await, 5);

    let done = fixture
        .run(&[&all[..], &["--yes", "--output", "json"]].concat())
        .await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(done.json()["results"].as_array().map(Vec::len), Some(2));
    let left = fixture.run(&["session", "list", "--output", "json"]).await.json();
    let left: Vec<&str> = left["sessions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|session| session["id"].as_str().unwrap())
        .collect();
    assert_eq!(left.len(), 3);
    assert!(foreign.iter().all(|id| left.contains(&id.as_str())));
    let nothing = fixture.run(&[&all[..], &["--yes"]].concat()).await;
    assert_eq!(nothing.code, Some(0));
    assert!(nothing.out.contains("Nothing to delete"), "{nothing:?}");

    // The service omits the owners.
    fixture.age_sessions(3 * 3600).await;
    fixture.set_faults(&["session-fields-missing"]).await;
    let unproved = fixture.run(&[&all[..], &["--yes"]].concat()).await;
    assert_eq!(unproved.code, Some(0));
    assert!(unproved.err.contains("does not report its owner"), "{unproved:?}");
    assert_eq!(fixture.open_now().await, 3);
    fixture
        .run(&[&all[..], &["--username", PERSON]].concat())
        .await
        .expect_failure(2, &["--username", "belong to operator@example.com"]);
}

#[tokio::test]
async fn a_recently_used_session_is_reported_and_kept() {
    let fixture = CliFixture::start(&["--today", "2018-07-02"]).await;
    fixture.open_sessions(USER, 1).await;
    let all = ["session", "delete", "--all-mine-older-than", "0s"];
    let forced = fixture.run(&[&all[..], &["--yes"]].concat()).await;
    assert_eq!(forced.code, Some(0));
    assert!(forced.err.contains("may be downloading"), "{forced:?}");
    assert_eq!(fixture.open_now().await, 1);
    let too = fixture
        .run(&[&all[..], &["--including-touched", "--yes"]].concat())
        .await;
    assert_eq!(too.code, Some(0));
    assert_eq!(fixture.open_now().await, 0);
}

#[tokio::test]
async fn a_failed_deletion_is_reported_and_does_not_stop_the_others() {
    let fixture = CliFixture::start(&[]).await;
    let own = fixture.open_sessions(USER, 2).await;
    let foreign = fixture.open_sessions(PERSON, 1).await;
    let ids = [own[0].as_str(), foreign[0].as_str(), own[1].as_str()];
    let deleted = fixture.run(&[&["session", "delete"][..], &ids].concat()).await;
    assert_eq!(deleted.code, Some(1), "{deleted:?}");
    assert_eq!(deleted.out.matches("Delete session success").count(), 2);
    assert!(
        deleted.out.contains("FAILED") && deleted.out.contains("another user"),
        "{deleted:?}"
    );
    assert_eq!(fixture.open_now().await, 1);
    fixture
        .run(&["session", "show", &foreign[0]])
        .await
        .expect_failure(1, &["another user"]);
}
