//! The API version in a path: every route is served with and without it.

use axum::http::{Uri, uri::PathAndQuery};
use skep_api::ApiError;

/// The newest API that is served, as (major, minor).
pub(crate) const API_MAX: (u32, u32) = (1, 55);
/// The oldest.
pub(crate) const API_MIN: (u32, u32) = (1, 24);

/// `1.55`
pub(crate) fn text(version: (u32, u32)) -> String {
    format!("{}.{}", version.0, version.1)
}

/// The path without its version, and the version: the newest when the path has none.
pub(crate) fn strip(uri: &Uri) -> Result<(Uri, (u32, u32)), ApiError> {
    let Some((word, rest)) = uri.path().strip_prefix("/v").and_then(|path| path.split_once('/')) else {
        return Ok((uri.clone(), API_MAX));
    };
    if word.is_empty() || !word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Ok((uri.clone(), API_MAX));
    }
    let invalid = || ApiError::invalid(format!("invalid API version '{word}'"));
    let (major, minor) = word.split_once('.').ok_or_else(invalid)?;
    let version = (major.parse().map_err(|_| invalid())?, minor.parse().map_err(|_| invalid())?);
    if version < API_MIN {
        return Err(ApiError::invalid(format!(
            "client version {word} is too old. Minimum supported API version is {}, please upgrade your client to \
             a newer version",
            text(API_MIN)
        )));
    }
    if version > API_MAX {
        let words =
            format!("client version {word} is too new. Maximum supported API version is {}", text(API_MAX));
        return Err(ApiError::invalid(words));
    }
    let target = uri.query().map_or_else(|| format!("/{rest}"), |query| format!("/{rest}?{query}"));
    let target: PathAndQuery = target.parse().map_err(|_| ApiError::invalid("malformed path"))?;
    Ok((Uri::from(target), version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_taken_off_and_checked() {
        let check = |path: &str, expect: Result<(&str, (u32, u32)), &str>| {
            let got = strip(&path.parse().unwrap()).map(|(uri, version)| (uri.to_string(), version));
            match (got, expect) {
                (Ok((uri, version)), Ok(expect)) => assert_eq!((uri.as_str(), version), expect, "{path}"),
                (Err(error), Err(expect)) => assert_eq!(error.message, expect, "{path}"),
                (got, expect) => panic!("{path}: {got:?} instead of {expect:?}"),
            }
        };
        check("/_ping", Ok(("/_ping", API_MAX)));
        check("/v1.41/services?status=true", Ok(("/services?status=true", (1, 41))));
        check("/volumes/a/b", Ok(("/volumes/a/b", API_MAX)));
        check(
            "/v1.20/info",
            Err(
                "client version 1.20 is too old. Minimum supported API version is 1.24, please upgrade your client \
                 to a newer version",
            ),
        );
        check("/v1.56/info", Err("client version 1.56 is too new. Maximum supported API version is 1.55"));
        check("/v1/info", Err("invalid API version '1'"));
    }
}
