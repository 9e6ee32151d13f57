"""`llumi ...`: every job of `jobs/` as a command, and what helps around them."""

import contextlib
from pathlib import Path
from typing import Annotated, Literal

import typer
import yaml

from llumi.cli_access import audit_app, keys_app
from llumi.cli_doctor import doctor
from llumi.cli_jobs import SUBMIT_SETTINGS, jobs_app, submit
from llumi.cli_plan import plan
from llumi.cli_serve import serve_app
from llumi.cli_top import top
from llumi.config import Stage, load_config
from llumi.generate.names import Posts
from llumi.job import (
    ConfigOption,
    FromOption,
    JsonOption,
    SetOption,
    UntilOption,
    job,
    show_artifact,
    show_outlook,
    show_plan,
    show_steps,
    show_sweep,
)
from llumi.prompts import Role
from llumi.terminal import console, one_line_errors, progress_shown, show_figures
from llumi.train.grid import MAX_POINTS, grid

app = typer.Typer(
    help="Train and host, on your own GPUs, two models that help people write to someone in distress. "
    "GM drafts a reply to a post, IM revises a person's draft. Start with `llumi demo`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
corpus_app = typer.Typer(help="Look into dumps.", no_args_is_help=True)
pairs_app = typer.Typer(help="Preference pairs from votes, a teacher or people.", no_args_is_help=True)
model_app = typer.Typer(help="Models: bring one in, tell what one is.", no_args_is_help=True)
rate_app = typer.Typer(help="The human rating page: blind studies of replies side by side.", no_args_is_help=True)
config_app = typer.Typer(help="The configuration as resolved.", no_args_is_help=True)
app.add_typer(corpus_app, name="corpus")
app.add_typer(pairs_app, name="pairs")
app.add_typer(model_app, name="model")
app.add_typer(rate_app, name="rate")
app.add_typer(serve_app, name="serve")
app.add_typer(jobs_app, name="jobs")
app.add_typer(keys_app, name="keys")
app.add_typer(audit_app, name="audit")
app.add_typer(config_app, name="config")
app.command(context_settings=SUBMIT_SETTINGS)(submit)
app.command()(top)
app.command()(plan)
app.command()(doctor)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where everything is written.")] = Path("llumi-data/demo"),
    posts: Annotated[int, typer.Option(min=100, help="Posts of the made-up corpus.")] = 320,
    overrides: SetOption = None,
) -> None:
    """Everything, on this machine, from nothing: a made-up corpus, two trained models, a report, a draft and a revision."""
    from llumi.demo import run_demo

    run_demo(folder, posts, overrides or [])


@app.command()
def sample(
    out: Annotated[Path, typer.Argument(help="The folder to write the dumps into.")],
    posts: Annotated[int, typer.Option(min=1, help="How many posts.")] = 320,
    seed: Annotated[int, typer.Option(help="The same seed gives the same corpus.")] = 17,
) -> None:
    """Write a made-up corpus in the layout of a Reddit dump."""
    from llumi.corpus.sample import write_sample

    write_sample(out, posts, seed)
    console.print(f"[green]written[/] {out}; look into it with: llumi corpus inspect {out}", soft_wrap=True)


@corpus_app.command("inspect")
def corpus_inspect(
    uri: Annotated[str | None, typer.Argument(help="A folder, a glob or s3://bucket/prefix; default: corpus.uri.")] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count what dumps hold: records, kept, dropped by reason, malformed, truncated, months, communities.

    Ends with exit code 2 where a file is truncated, after every whole record before the cut was read.
    """
    from llumi.corpus.dump import open_corpus
    from llumi.corpus.read import inspect_corpus

    given = [*(overrides or []), *([f"corpus.uri={uri}"] if uri else [])]
    with job(config, given, quiet=as_json, check=open_corpus) as here:
        report = inspect_corpus(here.config, here.progress)
        here.progress.finish()
    show_figures("corpus", report.figures(), as_json)
    report.raise_if_truncated()


@pairs_app.command("build")
def pairs_build(
    exclude: Annotated[
        Path | None, typer.Option(help="A file of posts and authors to leave out: `post ID` or `author NAME` a line.")
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Corpus to pairs/<name>: SFT examples and DPO pairs for GM and IM, and the held-out posts.

    Example: llumi pairs build --set corpus.uri=/dumps --set pairs.preset=paper --exclude left-out.txt
    """
    from llumi.corpus.dump import open_corpus
    from llumi.pairs.build import build_pairs

    given = [*(overrides or []), *([f"corpus.exclude={exclude.absolute()}"] if exclude else [])]
    with job(config, given, quiet=as_json, check=open_corpus) as here:
        manifest = build_pairs(here.config, here.progress)
    show_artifact(manifest, here.config, as_json)


@pairs_app.command("teach")
def pairs_teach(
    generations: Annotated[
        str, typer.Argument(help="Such as im-teacher-drafts, from `llumi generate im teacher --posts drafts`.")
    ],
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """A local teacher's revisions to pairs/<name>-taught: those that are whole, safe and near their drafts.

    Example: llumi pairs teach im-teacher-drafts
    """
    from llumi.pairs.teach import teach

    with job(config, overrides, quiet=as_json) as here:
        manifest = teach(here.config, generations, here.progress)
    show_artifact(manifest, here.config, as_json)


@pairs_app.command("add")
def pairs_add(
    name: Annotated[str, typer.Argument(help="What the artifact is called: human is where the stage dpo2 looks.")],
    file: Annotated[Path, typer.Argument(help="NDJSON (also .zst or .gz) or Parquet, one pair a row.")],
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Pairs that people preferred, from a small file, to pairs/<name>. Example: llumi pairs add human preferred.ndjson

    A row has role (gm or im), post, chosen, rejected and, for im, draft; also weight, community, post_id, rater, ...
    """
    from llumi.pairs.human import add_pairs

    tree = load_config(config, overrides or ())
    manifest = add_pairs(tree, name, file)
    show_artifact(manifest, tree, as_json)


@model_app.command("add")
def model_add(
    name: Annotated[str, typer.Argument(help="What other commands will call it, such as teacher.")],
    folder: Annotated[Path, typer.Argument(help="A model in Hugging Face's layout on this machine.")],
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring a local model in as models/<name>; no hub is asked. Example: llumi model add teacher /models/Mistral-7B"""
    from llumi.models import add_model
    from llumi.storage import Storage

    tree = load_config(config, overrides or ())
    manifest = add_model(tree, Storage.open(tree.storage), name, folder)
    show_artifact(manifest, tree, as_json)


@model_app.command("card")
def model_card(
    name: Annotated[str, typer.Argument(help="Which model, such as gm-dpo1.")],
    out: Annotated[Path, typer.Option(help="The Markdown file to write; its curves come beside it.")] = Path("model-card.md"),
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Write the card of models/<name> anew, with the evaluations that name it. Example: llumi model card gm-dpo1"""
    from llumi.storage import Storage
    from llumi.train.card import write_standing_card

    tree = load_config(config, overrides or ())
    write_standing_card(Storage.open(tree.storage), name, out)
    console.print(f"[green]written[/] {out}", soft_wrap=True)


@pairs_app.command("card")
def pairs_card(
    name: Annotated[str | None, typer.Argument(help="Which pairs; default: pairs.name.")] = None,
    show_text: Annotated[bool, typer.Option("--show-text", help="With twenty random pairs, text and all.")] = False,
    out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("pairs-card.html"),
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Write the data card of pairs/<name>: one page on what it holds, and what was left out and why."""
    from llumi.pairs.card import write_card
    from llumi.storage import Storage

    tree = load_config(config, overrides or ())
    write_card(Storage.open(tree.storage), name or tree.pairs.name, out, show_text)
    console.print(f"[green]written[/] {out}", soft_wrap=True)


@app.command()
def train(
    role: Annotated[Role, typer.Argument(help="gm drafts, im revises.")],
    stage: Annotated[Stage, typer.Argument(help="sft first, then dpo1, then dpo2 on human pairs.")],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what the run would take and write.")] = False,
    gpu_memory: Annotated[
        float | None, typer.Option("--gpu-memory", metavar="GIB", min=1, help="--dry-run, and whether it fits such a GPU.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume/--afresh", help="Go on from the last checkpoint, or forget it.")] = True,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train one stage to models/<role>-<stage>. Example: llumi train gm sft --dry-run --gpu-memory 80"""
    if dry_run or gpu_memory is not None:
        from llumi.train.plan import make_plan

        show_plan(make_plan(load_config(config, overrides or ()), role, stage, gpu_memory), as_json)
        return
    from llumi.train.run import train as run_training

    with job(config, overrides, quiet=as_json) as here:
        manifest = run_training(here.config, role, stage, here.progress, resume=resume)
    show_artifact(manifest, here.config, as_json)


@app.command()
def sweep(
    role: Annotated[Role, typer.Argument(help="gm drafts, im revises.")],
    stage: Annotated[Stage, typer.Argument(help="The stage to train once for each point.")],
    *,
    max_points: Annotated[int, typer.Option(min=1, help="Refuse a grid of more points.")] = MAX_POINTS,
    keep_best: Annotated[bool, typer.Option("--keep-best", help="Publish the best as models/<role>-<stage>, too.")] = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train one stage for every combination of the lists in --set, and compare; exit code 1 where a point fails.

    Example: llumi sweep gm dpo1 --set train.dpo1.beta=[0.05,0.1,0.3] --set train.dpo1.learning_rate=[1e-5,5e-5]
    """
    points = grid(config, overrides or [], role, stage, max_points)
    from llumi.train.sweep import sweep as run_sweep  # seconds, spent once the points are known to be right

    with job(config, list(points[0].overrides), quiet=as_json) as here:
        report = run_sweep(points, role, stage, here.progress, keep_best=keep_best)
    show_sweep(report, here.config, as_json)
    raise typer.Exit(1 if report.failed else 0)


@app.command()
def generate(
    role: Annotated[Role, typer.Argument(help="gm replies to posts, im revises the drafts to them.")],
    models: Annotated[
        list[str],
        typer.Argument(help="base, a trained stage such as gm-dpo1, one from `llumi model add`, or one of generate.endpoints."),
    ],
    *,
    posts: Annotated[
        Posts,
        typer.Option(
            help="held-out: for evaluation. train: for a study whose preferences dpo2 learns from. "
            "drafts: (im) every draft, for `llumi pairs teach`."
        ),
    ] = "held-out",
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Generate in bulk to generations/<role>-<model>, model by model. Example: llumi generate gm base gm-sft gm-dpo1"""
    from llumi.generate.run import generate as run_generation

    with job(config, overrides, quiet=as_json) as here:
        for model in models:
            manifest = run_generation(here.config, role, model, here.progress, posts=posts)
            here.progress.finish()
            show_artifact(manifest, here.config, as_json)


@app.command()
def evaluate(
    generations: Annotated[list[str] | None, typer.Argument(help="Such as gm-base gm-dpo1; none means all.")] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare generations with the human replies in evaluations/<name>/report.html."""
    from llumi.evaluate.run import evaluate as run_evaluation

    with job(config, overrides, quiet=as_json) as here:
        manifest = run_evaluation(here.config, generations or [], here.progress)
    show_artifact(manifest, here.config, as_json)


@rate_app.command("create")
def rate_create(
    name: Annotated[str, typer.Argument(help="What the study is called; raters never see it.")],
    role: Annotated[Role, typer.Argument(help="gm compares replies, im revisions with their drafts.")],
    arms: Annotated[list[str], typer.Argument(help="Generations such as gm-dpo1; for gm human-reply and human-draft, too.")],
    *,
    purpose: Annotated[
        Literal["evaluation", "training"], typer.Option(help="Held-out posts, or training posts: only these give pairs.")
    ] = "evaluation",
    posts: Annotated[int | None, typer.Option(min=1, help="How many posts; default: all that can be shown.")] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw a study: posts, each with two replies to lay side by side. Its rules are those of rate.* as they stand now.

    Example: llumi rate create first gm gm-dpo1 human-reply --posts 60 --set rate.raters_per_item=3
    """
    from llumi.rate.database import Database
    from llumi.rate.draw import draw_items
    from llumi.rate.study import create_study, status

    tree = load_config(config, overrides or ())
    drawn = draw_items(tree, role, arms, purpose, posts)
    with contextlib.closing(Database.open(tree.rate, create=True)) as database:
        create_study(database, tree.rate, name, drawn)
        figures = status(database, name)[name] | {"left_out": drawn.left_out}
    show_figures(f"study {name}", figures, as_json)
    if not as_json:
        console.print(f"[green]created[/] {name}; next: llumi rate invite {name} --raters N")


@rate_app.command("invite")
def rate_invite(
    name: Annotated[str, typer.Argument(help="Which study.")],
    raters: Annotated[int, typer.Option(min=1, max=10_000, help="How many raters to add.")] = 1,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a link for each new rater. Links are shown this once: whoever has one can rate as that rater.

    Example: llumi rate invite first --raters 12 --json > links.json
    """
    from llumi.rate.database import Database
    from llumi.rate.server import public_url
    from llumi.rate.study import invite

    tree = load_config(config, overrides or ())
    with contextlib.closing(Database.open(tree.rate)) as database:
        tokens = invite(database, name, raters)
    links = {rater: f"{public_url(tree.rate)}/join/{token}" for rater, token in tokens.items()}
    if as_json:
        show_figures(name, links, as_json=True)
        return
    for rater, link in links.items():
        console.print(f"{rater}  {link}", soft_wrap=True)


@rate_app.command("serve")
def rate_serve(config: ConfigOption = None, overrides: SetOption = None) -> None:
    """Serve the page of every study until Ctrl-C. Example: llumi rate serve --set rate.port=8020"""
    from llumi.rate.database import Database
    from llumi.rate.server import public_url
    from llumi.rate.server import serve as serve_page
    from llumi.safety import Resources

    tree = load_config(config, overrides or ())
    resources = Resources.load(tree.safety.resources)
    with contextlib.closing(Database.open(tree.rate)) as database:
        console.print(f"[green]serving[/] {public_url(tree.rate)}; raters come in by their links", soft_wrap=True)
        serve_page(database, tree.rate, resources)


@rate_app.command("status")
def rate_status(
    name: Annotated[str | None, typer.Argument(help="Which study; default: all.")] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """How far studies have come: items, ratings, skipped pages, raters. Example: llumi rate status first"""
    from llumi.rate.database import Database
    from llumi.rate.study import status

    tree = load_config(config, overrides or ())
    with contextlib.closing(Database.open(tree.rate)) as database:
        studies = status(database, name)
    if as_json:
        show_figures("studies", studies, as_json=True)
        return
    for study, figures in studies.items():
        show_figures(f"study {study}", figures)


@rate_app.command("export")
def rate_export(
    name: Annotated[str, typer.Argument(help="Which study.")],
    out: Annotated[Path, typer.Option(help="The folder for scales, choices and checks as Parquet, without any text.")],
    *,
    pairs: Annotated[
        Path | None, typer.Option(help="Also write what raters preferred, text and all, as .ndjson for `llumi pairs add`.")
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write what raters sent until now; pairs come of studies for training alone.

    Example: llumi rate export second --out ratings/second --pairs preferred.ndjson
    """
    from llumi.rate.database import Database
    from llumi.rate.export import read_ratings, write_pairs, write_records

    tree = load_config(config, overrides or ())
    with contextlib.closing(Database.open(tree.rate)) as database:
        ratings = read_ratings(database, name)
    if pairs:
        write_pairs(ratings, name, pairs)
    files = write_records(ratings, out)
    show_figures(f"study {name}", {"counts": ratings.counts, "files": [str(file) for file in files]}, as_json)
    if not as_json:
        console.print(f"[green]written[/] {out}" + (f"; next: llumi pairs add human {pairs}" if pairs else ""), soft_wrap=True)


@rate_app.command("outcome")
def rate_outcome(
    folder: Annotated[Path, typer.Argument(help="What `llumi rate export` wrote.")],
    *,
    reference: Annotated[
        str | None, typer.Option(help="The arm that others are set against; beside the paper: our DPO2.")
    ] = None,
    other: Annotated[str | None, typer.Option(help="The arm in the place of the paper's GPT-5-nano.")] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """What a study came to: scores, agreement, win rates, and the paper's figures beside ours.

    Example: llumi rate outcome ratings/first --reference gm-dpo2 --other house --json
    """
    from llumi.evaluate.outcome import outcome, read_ratings
    from llumi.evaluate.ratings import Resampling

    drawn = load_config(config, overrides or ()).evaluate
    resampling = Resampling(drawn.num_bootstrap, drawn.confidence, drawn.seed)
    came_to = outcome(read_ratings(folder), resampling, reference=reference, other=other)
    show_figures(f"ratings {folder}", came_to.figures(), as_json)


@rate_app.command("flags")
def rate_flags(
    *,
    remove: Annotated[int | None, typer.Option(help="Delete the flag with this id, text and all.")] = None,
    remove_text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Delete every flag that holds the text in this file, or a part of it.")
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Suggestions that were flagged as unsafe on the writing page: counts, and with --json each of them, text and all.

    Example: llumi rate flags --json > flags.json
    """
    from llumi.forget_flags import Wording, read_text
    from llumi.rate.database import Database
    from llumi.rate.flags import count_flags, list_flags, remove_flag, remove_flags

    tree = load_config(config, overrides or ())
    removed: dict[str, int] = {}
    with contextlib.closing(Database.open(tree.rate)) as database:
        if remove is not None:
            remove_flag(database, remove)
        if remove_text is not None:
            found = Wording(tree).flags_with(list_flags(database), [read_text(remove_text)])
            removed = {"removed": remove_flags(database, found)}
        flags = list_flags(database)
    show_figures("flags", removed | count_flags(flags) | ({"rows": flags} if as_json else {}), as_json)


@app.command()
def pipeline(
    *,
    start: FromOption = None,
    until: UntilOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what stands and what would be made.")] = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Corpus to report: a step whose artifact stands with the same config and inputs is skipped.

    Example: llumi pipeline --set corpus.uri=/dumps --until gm-dpo1 --dry-run
    """
    from llumi.pipeline import look_ahead
    from llumi.pipeline import pipeline as run_pipeline

    if dry_run:
        show_outlook(look_ahead(load_config(config, overrides or ()), start, until), as_json)
        return
    with job(config, overrides, quiet=as_json) as here:
        show_steps(run_pipeline(here.config, here.progress, start=start, until=until), here, as_json)


@app.command()
def forget(
    *,
    post: Annotated[list[str] | None, typer.Option(metavar="ID", help="A post; may be given several times.")] = None,
    author: Annotated[list[str] | None, typer.Option(metavar="NAME", help="A person, as the dump spells the name.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count only, change nothing.")] = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove a post or a person from every artifact, study and flag, and name the models that learned from them.

    Example: llumi forget --post abc123 --author some_name --dry-run
    """
    from llumi.forget import forget as run_forget
    from llumi.forget import show_forgotten

    tree = load_config(config, overrides or ())
    with progress_shown(quiet=as_json) as progress:
        report = run_forget(tree, post or [], author or [], progress, dry_run=dry_run)
    show_forgotten(report, tree.storage.uri, as_json)


@config_app.command("show")
def config_show(config: ConfigOption = None, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Print the whole tree with every default, file and override resolved."""
    tree = load_config(config, overrides or ())
    if as_json:
        show_figures("config", tree.model_dump(mode="json"), as_json=True)
    else:
        console.print(yaml.safe_dump(tree.model_dump(mode="json"), sort_keys=False), end="", markup=False, soft_wrap=True)


@config_app.command("check")
def config_check(config: ConfigOption = None, overrides: SetOption = None) -> None:
    """Say that the configuration is right, or what is wrong with it."""
    load_config(config, overrides or ())
    console.print("[green]the configuration is right[/]")


def main() -> None:
    """The entry point: errors of the tree end in one line and exit code 2."""
    with one_line_errors():
        app()


if __name__ == "__main__":
    main()
