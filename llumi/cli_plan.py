"""`llumi plan`: what a corpus, a model and some GPUs would take; nothing is started, read or written."""

import itertools
from typing import Annotated

import typer

from llumi.config import load_config
from llumi.job import ConfigOption, JsonOption, SetOption


def plan(
    *,
    comments: Annotated[list[float], typer.Option(metavar="N", help="Of the corpus, such as 1e9; may be given again.")],
    gpus: Annotated[list[int], typer.Option(min=1, help="How many; may be given again.")],
    model: Annotated[list[str], typer.Option(help="135m, 7b, 8b, 13b or 70b; may be given again.")],
    gpu: Annotated[str, typer.Option(help="b200, h200, h100, a100, a100-40, l40s, a40, a10 or rtx4090.")] = "h100",
    share: Annotated[float, typer.Option(help="The share of the comments that is of communities you want.")] = 1.0,
    replies: Annotated[int, typer.Option(min=1, help="Replies to generate in bulk.")] = 100_000,
    cores: Annotated[int, typer.Option(min=1, help="CPU cores for pairs, over all nodes.")] = 32,
    gpus_per_node: Annotated[int, typer.Option(min=1, help="GPUs of one node.")] = 8,
    network: Annotated[float, typer.Option(min=1, metavar="MB/S", help="From node to node, as llumi doctor tells.")] = 12_500,
    store: Annotated[float, typer.Option(min=1, metavar="MB/S", help="What the store takes in, as llumi doctor tells.")] = 1000,
    store_read: Annotated[float, typer.Option(min=0, metavar="MS", help="A small read, as llumi doctor tells.")] = 2,
    sources: Annotated[bool, typer.Option("--sources", help="Also the figures behind it, and whose they are.")] = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """What a corpus, a model and GPUs would take: hours, memory, disk, network, and what failures cost.

    Training is laid out as `train` of the configuration says, on so many GPUs. Several values give a table with a row each.
    Example: llumi plan --comments 1e9 --gpus 8 --gpu h100 --model 7b --set train.method=full --set train.zero_stage=3
    """
    from llumi.capacity.gpus import find_gpu
    from llumi.capacity.inputs import Hardware, Question
    from llumi.capacity.plan import plan_capacity
    from llumi.capacity.shapes import find_shape
    from llumi.capacity_tables import show_plans

    train, kind, shapes = load_config(config, overrides or ()).train, find_gpu(gpu), [find_shape(name) for name in model]
    plans = []
    for num_comments, shape, num_gpus in itertools.product(comments, shapes, gpus):
        hardware = Hardware(kind, num_gpus, gpus_per_node, cores, network * 1e6, store * 1e6, store_read / 1e3)
        plans.append(plan_capacity(Question(num_comments, share, shape, train, hardware, replies)))
    show_plans(plans, as_json, sources)
