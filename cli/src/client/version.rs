//! `skep version`.

use std::process::ExitCode;

use super::{
    connection::Connection,
    output::{print, text},
};
use crate::http::VERSION;

/// Prints the client's version even when there is no daemon.
pub(crate) async fn run(host: &str) -> anyhow::Result<ExitCode> {
    let connection = Connection::negotiate(host).await;
    let spoken = connection.as_ref().map(|daemon| format!("{}.{}", daemon.version.0, daemon.version.1));
    print(&format!(
        "Client: skep\n Version:           {VERSION}\n API version:       {}\n OS/Arch:           linux/{}\n",
        spoken.as_deref().unwrap_or("-"),
        std::env::consts::ARCH,
    ))?;
    let about = connection?.get("/version").await?;
    let platform = text(&about, "/Platform/Name");
    print(&format!(
        "\nServer: {}\n Engine:\n  Version:          {}\n  API version:      {} (minimum version {})\n  OS/Arch:          \
         {}/{}\n  Kernel:           {}\n",
        if platform.is_empty() { "Docker Engine" } else { platform },
        text(&about, "/Version"),
        text(&about, "/ApiVersion"),
        text(&about, "/MinAPIVersion"),
        text(&about, "/Os"),
        text(&about, "/Arch"),
        text(&about, "/KernelVersion"),
    ))?;
    Ok(ExitCode::SUCCESS)
}
