//! The site of the documentation. `make docs` builds it; its contents are checked without it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use regex::Regex;

use crate::testkit::folder;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files below a folder with this extension.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files = folder::files(folder);
    files.retain(|file| file.extension().is_some_and(|ext| ext == extension));
    files.into_iter().map(|file| folder.join(file)).collect()
}

#[test]
fn the_contents_list_every_page_once_as_the_map_does() {
    let output = Command::new("sh")
        .arg(root().join("docs/site/summary"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let summary = String::from_utf8(output.stdout).unwrap();
    let link = Regex::new(r"\[[^\]]+\]\(([^)]+)\)").unwrap();
    let listed: Vec<&str> = link
        .captures_iter(&summary)
        .map(|link| link.get(1).unwrap().as_str())
        .collect();
    for page in &listed {
        assert!(
            root().join(page).is_file(),
            "the contents list {page}, which does not exist"
        );
    }
    let once: BTreeSet<&str> = listed.iter().copied().collect();
    assert_eq!(once.len(), listed.len(), "a page is listed twice: {listed:?}");

    let pages = files(&root().join("docs"), "md");
    assert!(pages.len() > 60, "{pages:?}");
    for page in pages {
        let page = page.strip_prefix(root()).unwrap().to_str().unwrap();
        assert!(
            once.contains(page),
            "add {page} to the map in docs/README.md or docs/adr/README.md"
        );
    }
}

/// Links of a page, and the places that links can lead to.
fn links_and_ids(html: &str) -> (Vec<String>, BTreeSet<String>) {
    let attribute = |name: &str| {
        let pattern = Regex::new(&format!(r#"\s{name}="([^"]*)""#)).unwrap();
        let values = pattern
            .captures_iter(html)
            .map(|value| value[1].replace("&amp;", "&"));
        values.collect::<Vec<_>>()
    };
    let links = [attribute("href"), attribute("src")].concat();
    (links, attribute("id").into_iter().collect())
}

#[test]
fn every_link_of_the_site_leads_to_a_page_and_a_heading() {
    let site = root().join("target/docs/site");
    assert!(
        site.join("index.html").exists(),
        "there is no site: run `make docs`"
    );
    let pages = files(&site, "html");
    let mut checked = 0;
    let mut broken = BTreeSet::new();
    // The page for unknown addresses has links from the root of a server.
    for page in pages.iter().filter(|page| !page.ends_with("404.html")) {
        let (links, own) = links_and_ids(&fs::read_to_string(page).unwrap());
        for link in links {
            let outside = ["https://", "http://", "data:", "mailto:"];
            if outside.iter().any(|scheme| link.starts_with(scheme)) {
                continue;
            }
            checked += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let mut target = if path.is_empty() {
                page.clone()
            } else {
                page.parent().unwrap().join(path)
            };
            if target.is_dir() {
                target.push("index.html");
            }
            let holds = if anchor.is_empty() {
                target.is_file()
            } else if path.is_empty() {
                own.contains(anchor)
            } else {
                fs::read_to_string(&target).is_ok_and(|html| links_and_ids(&html).1.contains(anchor))
            };
            if !holds {
                broken.insert(format!("{}: {link}", page.strip_prefix(&site).unwrap().display()));
            }
        }
    }
    assert!(checked > 1000, "{checked} links");
    assert!(broken.is_empty(), "{broken:#?}");
}
