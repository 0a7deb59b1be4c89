//! A folder that is served, as a route has it.

use super::open::{Failure, Meta, Opened, Root, entries};
use super::path::{self, NoName, percent_encode};
use super::plan::{Answer, Body, Described, Part, plan, status_only};
use super::{encoding, listing, mime};
use crate::config::model::http::{Coding, Files};
use crate::message::{Length, Method, Name, RequestHead};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;

/// A folder that is served.
#[derive(Debug)]
pub struct Site {
    config: Files,
    root: Root,
}

/// What was found for a request.
enum Found {
    File(File, Meta, OsString),
    Folder(OwnedFd),
    /// A folder that was asked for without the slash at its end.
    Elsewhere,
}

impl Site {
    /// Opens the folder.
    ///
    /// # Errors
    ///
    /// If the root is no folder, or may not be entered.
    pub fn open(config: &Files) -> io::Result<Self> {
        Ok(Self {
            root: Root::open(&config.root)?,
            config: config.clone(),
        })
    }

    #[cfg(test)]
    pub(super) fn walking(self) -> Self {
        Self {
            root: self.root.walking(),
            ..self
        }
    }

    /// Answers a request. `now` is in seconds since the epoch; `random` is drawn for this request.
    pub fn answer(&self, request: &RequestHead, now: u64, random: u64) -> Answer {
        if !matches!(request.method, Method::Get | Method::Head) {
            let mut answer = refuse(405);
            answer.head.fields.append(Name::Allow, b"GET, HEAD");
            return answer;
        }
        let found = self.find(request.path());
        let found = match found {
            Err(Failure::Absent) => self.fallback().ok_or(Failure::Absent),
            found => found,
        };
        match found {
            Ok(Found::File(file, meta, name)) => self.file(request, file, meta, &name, now, random),
            Ok(Found::Folder(folder)) => list(request, folder),
            Ok(Found::Elsewhere) => with_slash(request),
            Err(Failure::Absent) => refuse(404),
            Err(Failure::Forbidden) => refuse(403),
            Err(Failure::Exhausted) => refuse(503),
            Err(Failure::Broken) => refuse(500),
        }
    }

    fn find(&self, path: &[u8]) -> Result<Found, Failure> {
        let name = match path::name(path, &self.config.strip_prefix) {
            Ok(name) => name,
            Err(NoName::Invalid | NoName::Absent) => return Err(Failure::Absent),
        };
        match self.root.get(&name.path)? {
            // `/file/` is not `/file`: links in it would lead elsewhere.
            Opened::File(..) if name.folder => Err(Failure::Absent),
            Opened::File(file, meta) => Ok(Found::File(file, meta, name.path)),
            Opened::Folder(folder) => self.index(&name.path, folder, name.folder),
        }
    }

    fn index(&self, name: &OsStr, folder: OwnedFd, slash: bool) -> Result<Found, Failure> {
        for index in &self.config.index {
            let name = beside(name, "/", index);
            match self.root.get(&name) {
                Ok(Opened::File(..)) if !slash => return Ok(Found::Elsewhere),
                Ok(Opened::File(file, meta)) => return Ok(Found::File(file, meta, name)),
                Ok(Opened::Folder(_)) | Err(Failure::Absent) => {}
                Err(failure) => return Err(failure),
            }
        }
        match (self.config.list, slash) {
            (true, true) => Ok(Found::Folder(folder)),
            (true, false) => Ok(Found::Elsewhere),
            (false, _) => Err(Failure::Absent),
        }
    }

    fn fallback(&self) -> Option<Found> {
        let name = OsString::from(self.config.fallback.as_deref()?.trim_start_matches('/'));
        match self.root.get(&name) {
            Ok(Opened::File(file, meta)) => Some(Found::File(file, meta, name)),
            _ => None,
        }
    }

    fn file(
        &self,
        request: &RequestHead,
        file: File,
        meta: Meta,
        name: &OsStr,
        now: u64,
        random: u64,
    ) -> Answer {
        let variant = self.variant(request, name);
        let coding = variant.as_ref().map(|(_, _, coding)| *coding);
        let (file, meta) = variant.map_or((file, meta), |(file, meta, _)| (file, meta));
        let described = Described {
            content_type: mime::of(name.as_bytes()),
            coding,
            varies: !self.config.precompressed.is_empty(),
            cache_control: self.config.cache_control.as_deref(),
        };
        let plan = plan(request, &meta, &described, now, random);
        let body = match plan.head.status {
            412 | 416 => Body::ErrorPage,
            _ if plan
                .parts
                .iter()
                .any(|part| matches!(part, Part::Range(range) if !range.is_empty())) =>
            {
                Body::File(file, plan.parts)
            }
            _ => Body::None,
        };
        Answer {
            head: plan.head,
            body,
        }
    }

    /// The precompressed variant that the client likes best.
    fn variant(&self, request: &RequestHead, name: &OsStr) -> Option<(File, Meta, &'static str)> {
        let open = |coding: Coding| match self.root.get(&beside(name, ".", coding.extension())) {
            Ok(Opened::File(file, meta)) => Some((file, meta, coding.name())),
            _ => None,
        };
        encoding::acceptable(&request.fields, &self.config.precompressed)
            .into_iter()
            .find_map(open)
    }
}

/// A name with something after it; the root's name is empty and takes no slash.
fn beside(name: &OsStr, between: &str, last: &str) -> OsString {
    let mut name = name.to_owned();
    if !name.is_empty() {
        name.push(between);
    }
    name.push(last);
    name
}

/// The page of a folder.
fn list(request: &RequestHead, folder: OwnedFd) -> Answer {
    let entries = match entries(folder) {
        Ok(entries) => entries,
        Err(Failure::Exhausted) => return refuse(503),
        Err(_) => return refuse(404),
    };
    let path = request.path();
    let page = listing::page(path, path == b"/", &entries).into_bytes();
    let mut head = status_only(200).head;
    let html = b"text/html; charset=utf-8";
    head.fields.append(Name::ContentType, html);
    if request.method == Method::Head {
        head.described_length = Some(page.len() as u64);
        head.length = Length::None;
        return Answer {
            head,
            body: Body::None,
        };
    }
    head.length = Length::Exact(page.len() as u64);
    Answer {
        head,
        body: Body::Octets(page),
    }
}

/// Sends the client to the same folder with a slash at its end. The reference is relative, so that
/// it is right whatever the path was rewritten to, and can lead to no other host.
fn with_slash(request: &RequestHead) -> Answer {
    let path = request.path();
    let last = path.rsplit(|&octet| octet == b'/').next().unwrap_or(path);
    let mut location = "./".to_owned();
    if !last.is_empty() {
        location.clear();
        location.push_str("./");
        // It is percent-encoded already, but perhaps not all of it.
        let as_it_is = last
            .iter()
            .all(|&octet| octet == b'%' || octet.is_ascii_graphic());
        match std::str::from_utf8(last) {
            Ok(text) if as_it_is => location.push_str(text),
            _ => percent_encode(last, &mut location),
        }
        location.push('/');
    }
    if let Some(query) = request
        .query()
        .and_then(|query| std::str::from_utf8(query).ok())
    {
        location.push('?');
        location.push_str(query);
    }
    let mut answer = refuse(301);
    answer
        .head
        .fields
        .append(Name::Location, location.as_bytes());
    answer
}

fn refuse(status: u16) -> Answer {
    Answer {
        head: status_only(status).head,
        body: Body::ErrorPage,
    }
}
