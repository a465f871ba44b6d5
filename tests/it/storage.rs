//! Storage backends: one conformance suite for a directory and a real S3 store, and the errors of each.

// Needed outside of `#[test]` functions: fixtures panic, too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

pub(crate) mod bucket;
pub(crate) mod conformance;
mod directory;
pub(crate) mod quirks;
mod scripted;

/// Declares one test per promise, on a store that `$open` creates.
macro_rules! conforms {
    ($name:ident, $open:expr, $($promise:ident),+ $(,)?) => {
        mod $name {
            $(#[tokio::test]
            async fn $promise() {
                let (store, _kept) = $open.await;
                super::conformance::$promise(&store).await;
            })+
        }
    };
    ($name:ident, $open:expr) => {
        conforms!(
            $name,
            $open,
            an_object_is_read_back_as_it_was_stored,
            a_key_is_created_once,
            of_many_who_create_a_key_one_succeeds,
            bytes_that_changed_on_the_way_are_refused,
            an_upload_is_all_or_nothing,
            an_upload_creates_a_key_once,
            an_aborted_upload_is_gone,
            uploads_left_behind_are_found,
            a_listing_shows_every_key,
            no_more_is_read_than_asked_for,
            conditional_writes_are_found_to_work,
        );
    };
}

conforms!(
    conformance_of_a_directory,
    std::future::ready(super::directory::open())
);
conforms!(conformance_of_a_bucket, super::bucket::open());
conforms!(conformance_of_the_fake, super::quirks::open(&[]));
