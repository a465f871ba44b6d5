//! Manifests of package managers, as `release/packages` writes them: krew, Homebrew and cargo-binstall.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::release_files::sha256;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Targets of the release, with the architecture in krew's words.
const TARGETS: [(&str, &str); 2] = [
    ("x86_64-unknown-linux-musl", "amd64"),
    ("aarch64-unknown-linux-musl", "arm64"),
];

fn script(name: &str) -> Command {
    let mut command = Command::new("sh");
    command.arg(Path::new(ROOT).join("release").join(name));
    command
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {stderr}");
    Ok(String::from_utf8(output.stdout)?)
}

/// A folder with the archives and manifests of a release whose program is a shell script, made by the scripts of the release.
pub(crate) fn small_release() -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    let program = folder.path().join("program");
    fs::write(&program, format!("#!/bin/sh\necho eventexport {VERSION}\n"))?;
    run(Command::new("chmod").arg("+x").arg(&program))?;
    for (target, _) in TARGETS {
        let mut archive = script("archive");
        archive.arg(folder.path()).args([VERSION, target]).arg(&program);
        run(archive.env("SOURCE_DATE_EPOCH", "1530403200"))?;
    }
    fs::remove_file(program)?;
    run(script("packages")
        .arg(folder.path())
        .args([VERSION, "amd64 arm64"]))?;
    Ok(folder)
}

/// Names and digests of the archives in a folder.
fn archives(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for (target, _) in TARGETS {
        let name = format!("eventexport-{VERSION}-{target}.tar.gz");
        if let Ok(bytes) = fs::read(folder.join(&name)) {
            found.insert(name, sha256(&bytes));
        }
    }
    ensure!(!found.is_empty(), "{} holds no archive", folder.display());
    Ok(found)
}

/// Names in an archive, and the modes of the files as tar prints them.
fn members(archive: &Path) -> Result<BTreeMap<String, String>> {
    let list = run(Command::new("tar").arg("-tvzf").arg(archive))?;
    let lines = list.lines().map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words[words.len() - 1].to_owned(), words[0].to_owned())
    });
    Ok(lines.collect())
}

fn text<'a>(value: &'a Value, pointer: &str) -> Result<&'a str> {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .with_context(|| format!("{pointer} is missing in {value}"))
}

/// Address from which cargo-binstall downloads the archive of a target, and the path of the program in it.
fn binstall(target: &str) -> Result<(String, String)> {
    let manifest: toml_edit::DocumentMut = fs::read_to_string(Path::new(ROOT).join("Cargo.toml"))?.parse()?;
    let package = &manifest["package"];
    let filled = |key: &str| -> Result<String> {
        let template = package["metadata"]["binstall"][key]
            .as_str()
            .context("no template")?;
        let filled = template
            .replace(
                "{ repo }",
                package["repository"].as_str().context("no repository")?,
            )
            .replace("{ name }", "eventexport")
            .replace("{ bin }", "eventexport")
            .replace("{ binary-ext }", "")
            .replace("{ version }", VERSION)
            .replace("{ target }", target);
        ensure!(!filled.contains(['{', '}']), "{key}: {filled}");
        Ok(filled)
    };
    Ok((filled("pkg-url")?, filled("bin-dir")?))
}

/// Checks krew's manifest, and returns the addresses of the archives with their digests.
fn check_krew(folder: &Path) -> Result<BTreeMap<String, String>> {
    let plugin: Value = serde_saphyr::from_str(&fs::read_to_string(folder.join("eventexport.yaml"))?)?;
    ensure!(text(&plugin, "/apiVersion")? == "krew.googlecontainertools.github.com/v1alpha2");
    // krew looks a plugin up by the name of the file.
    ensure!(text(&plugin, "/metadata/name")? == "eventexport");
    ensure!(text(&plugin, "/spec/version")? == format!("v{VERSION}"));
    let about = text(&plugin, "/spec/shortDescription")?;
    ensure!(
        about.len() <= 50,
        "krew cuts descriptions of more than 50: {about}"
    );
    let mut found = BTreeMap::new();
    let platforms = plugin.pointer("/spec/platforms").and_then(Value::as_array);
    for platform in platforms.context("no platforms")? {
        let address = text(platform, "/uri")?;
        let name = address.rsplit('/').next().unwrap_or_default();
        let architecture = text(platform, "/selector/matchLabels/arch")?;
        let (target, _) = TARGETS
            .into_iter()
            .find(|(_, known)| *known == architecture)
            .with_context(|| format!("architecture {architecture}"))?;
        ensure!(name.contains(target), "{architecture}: {name}");
        let members = members(&folder.join(name))?;
        let mut unpacked = Vec::new();
        let files = platform.pointer("/files").and_then(Value::as_array);
        for file in files.context("no files")? {
            let (from, to) = (text(file, "/from")?, text(file, "/to")?);
            let mode = members
                .get(from)
                .with_context(|| format!("{name} has no {from}"))?;
            unpacked.push((to, mode.as_str()));
        }
        let program = (text(platform, "/bin")?, "-rwxr-xr-x");
        ensure!(unpacked.contains(&program), "{program:?} is not in {unpacked:?}");
        // krew makes the link kubectl-NAME, and refuses archives with other than plain files and folders.
        ensure!(
            members.values().all(|mode| mode.starts_with(['-', 'd'])),
            "{members:?}"
        );
        found.insert(address.to_owned(), text(platform, "/sha256")?.to_owned());
    }
    Ok(found)
}

/// Checks Homebrew's formula, and returns the addresses of the archives with their digests.
fn check_homebrew(folder: &Path) -> Result<BTreeMap<String, String>> {
    let formula = fs::read_to_string(folder.join("eventexport.rb"))?;
    // Homebrew derives the name of the class from the name of the file.
    ensure!(formula.starts_with("class Eventexport < Formula\n"));
    ensure!(formula.contains(&format!("\n  version \"{VERSION}\"\n")));
    let value = |keyword: &str, line: &str| -> Option<String> {
        let rest = line.trim().strip_prefix(keyword)?;
        Some(rest.trim().trim_matches('"').to_owned())
    };
    let mut found = BTreeMap::new();
    let mut lines = formula.lines();
    while let Some(line) = lines.next() {
        if let Some(address) = value("url ", line) {
            let digest = lines.next().and_then(|line| value("sha256 ", line));
            found.insert(address, digest.context("an address without digest")?);
        }
    }
    Ok(found)
}

/// Checks that the manifests in a folder name exactly its archives, with their digests and contents.
pub(crate) fn check(folder: &Path) -> Result<()> {
    let krew = check_krew(folder)?;
    let mut wanted = BTreeMap::new();
    for (target, _) in TARGETS {
        let name = format!("eventexport-{VERSION}-{target}.tar.gz");
        let Some(digest) = archives(folder)?.remove(&name) else {
            continue;
        };
        let (address, program) = binstall(target)?;
        ensure!(address.ends_with(&format!("/{name}")), "{address} is not {name}");
        let members = members(&folder.join(&name))?;
        ensure!(members.contains_key(&program), "{name} has no {program}");
        wanted.insert(address, digest);
    }
    ensure!(krew == wanted, "krew: {krew:?}, not {wanted:?}");
    let homebrew = check_homebrew(folder)?;
    ensure!(homebrew == wanted, "Homebrew: {homebrew:?}, not {wanted:?}");
    Ok(())
}

#[test]
fn krew_homebrew_and_binstall_name_the_archives_and_their_digests() -> Result<()> {
    let release = small_release()?;
    check(release.path())?;

    // An archive that was packed again after the manifests were written.
    let (name, _) = archives(release.path())?.pop_first().context("no archive")?;
    let mut bytes = fs::read(release.path().join(&name))?;
    // The comment that is the operating system in the header of gzip.
    bytes[9] ^= 1;
    fs::write(release.path().join(&name), bytes)?;
    let error = check(release.path()).unwrap_err().to_string();
    ensure!(error.starts_with("krew: "), "{error}");
    Ok(())
}

#[test]
fn no_package_is_made_for_an_archive_without_the_program() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (target, _) = TARGETS[0];
    let name = format!("eventexport-{VERSION}-{target}");
    fs::create_dir(folder.path().join(&name))?;
    fs::write(folder.path().join(&name).join("LICENSE"), "")?;
    let mut tar = Command::new("tar");
    tar.current_dir(folder.path()).arg("-czf");
    run(tar.arg(format!("{name}.tar.gz")).arg(&name))?;
    let mut packages = script("packages");
    let error = run(packages.arg(folder.path()).args([VERSION, "amd64"])).unwrap_err();
    let wanted = format!("holds no {name}/eventexport");
    ensure!(format!("{error}").contains(&wanted), "{error}");
    ensure!(!folder.path().join("eventexport.yaml").exists());
    Ok(())
}
