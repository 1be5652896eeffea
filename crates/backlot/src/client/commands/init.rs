//! `backlot init`: a new agent's folder from one of the embedded templates.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::json;

use crate::client::error::Error;
use crate::client::project::slug_of;
use crate::client::templates::{self, TEMPLATES, Template};
use crate::client::{Context, prompt};

/// Arguments of `init`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Templates:
  default         coding agent with file and shell tools (JavaScript, no dependencies)
  research-agent  searches a source list, reads pages, writes a report (TypeScript, @anthropic-ai/sdk)
  support-agent   looks up users and orders, opens tickets, replies (Python, standard library only)
  mcp-tools       uses tools of MCP servers, with one included (JavaScript, no dependencies)")]
pub(crate) struct Args {
    /// Name of the agent, and of the folder that is made (a path makes the folder there)
    name: PathBuf,

    /// default, research-agent, support-agent or mcp-tools; asked for when absent
    #[arg(short, long)]
    template: Option<String>,

    /// Do not run npm install
    #[arg(long)]
    no_install: bool,
}

/// Writes the folder; nothing that exists is overwritten.
pub(crate) async fn run(args: Args, ctx: &Context) -> Result<(), Error> {
    let name = args
        .name
        .file_name()
        .and_then(|n| n.to_str())
        .ok_or_else(|| Error::Usage(format!("`{}` is not a name for an agent", args.name.display())))?;
    let slug = slug_of(name).ok_or_else(|| {
        Error::Usage(format!("no slug can be made of `{name}`: use letters a to z, digits and hyphens"))
    })?;
    let template = chosen(args.template.as_deref())?;
    write(template, &args.name, name, &slug)?;
    let installs = !args.no_install && template.has_packages();
    let installed = installs && install(&args.name, ctx).await;
    if ctx.out.json {
        return ctx.out.json(&json!({
            "name": name, "slug": slug, "template": template.name, "folder": args.name.display().to_string(),
            "installed": installed,
        }));
    }
    ctx.out.done(&format!("Created {} from the template {}", args.name.display(), template.name));
    if installed {
        ctx.out.done("Installed its packages");
    }
    ctx.out.hint(&format!("cd {} && backlot deploy", args.name.display()));
    ctx.out.hint(&format!("backlot invoke {slug} \"{}\"", template.example));
    Ok(())
}

fn chosen(name: Option<&str>) -> Result<&'static Template, Error> {
    let names = || TEMPLATES.iter().map(|t| t.name).collect::<Vec<_>>().join(", ");
    if let Some(name) = name {
        return templates::find(name)
            .ok_or_else(|| Error::Usage(format!("no template `{name}`; there are {}", names())));
    }
    let lines = TEMPLATES.iter().map(|t| format!("{:<15} {}", t.name, t.about)).collect();
    let index = prompt::choice(
        "Template:",
        lines,
        "give --template with one of default, research-agent, support-agent, mcp-tools",
    )?;
    TEMPLATES.get(index).ok_or_else(|| Error::failed("no such template"))
}

fn write(template: &Template, folder: &Path, name: &str, slug: &str) -> Result<(), Error> {
    match fs::read_dir(folder) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(Error::failed_with(
                    format!("the folder {} exists and is not empty", folder.display()),
                    "choose another name, or empty it first",
                ));
            }
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::file("read", folder, e)),
    }
    for (path, text) in template.files {
        let full = folder.join(path);
        let parent = full.parent().unwrap_or(folder);
        fs::create_dir_all(parent).map_err(|e| Error::file("create", parent, e))?;
        fs::write(&full, templates::fill(text, name, slug)).map_err(|e| Error::file("write", &full, e))?;
    }
    Ok(())
}

/// Installs the packages for local runs. The server installs its own, so a failure here only warns.
async fn install(folder: &Path, ctx: &Context) -> bool {
    ctx.out.note("running npm install (skip it with --no-install)");
    let status = tokio::process::Command::new("npm")
        .args(["install", "--no-audit", "--no-fund", "--loglevel=error"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await;
    match status {
        Ok(status) if status.success() => true,
        Ok(_) => {
            ctx.out.warn("npm install failed; the server installs on its own, so you can deploy all the same");
            false
        }
        Err(_) => {
            ctx.out.warn("npm is not installed here; it is needed only to run the agent on this machine");
            false
        }
    }
}
