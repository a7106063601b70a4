"""Write a first recipe for your own data, every value with its reason, and say what to expect of it.

    semipose init ANNOTATIONS PHOTOS [unlabelled=PHOTOS] [key=value ...]

ANNOTATIONS is a file in COCO's format, PHOTOS a folder or a zip file. The command reads the annotations and
the names of the photos, and says what is wrong with them. It writes into a folder with the name of the
annotations: `mine.yaml` to train by, `shards.yaml` and, for the unlabelled photos, `unlabelled.yaml` to build
shards by. Nothing is trained.
"""

from semipose.configs.console import plain_console
from semipose.configs.disk import named_disk_errors
from semipose.configs.load import InputError, exit_on_input_error, load, read_request
from semipose.sharding.check.report import print_table, print_warnings
from semipose.training.first_recipe.plan import (
    FirstRecipeSettings,
    commands,
    enough_unlabelled,
    expectation,
    how_found,
    make_plan,
    write_recipes,
)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    with exit_on_input_error():
        request = read_request(
            FirstRecipeSettings,
            description="Write a first recipe for your own data.",
            path_name="ANNOTATIONS PHOTOS",
            takes_many=True,
            argv=argv,
        )
        if len(request.paths) != 2:
            raise InputError(
                "command line: give two things: the file of your annotations in COCO's format, and the "
                "folder or zip file of its photos"
            )
        annotations, photos = request.paths
        plan = make_plan(annotations, photos, load(FirstRecipeSettings, None, request.overrides))
        with named_disk_errors(plan.folder):
            written = write_recipes(plan)
        console = plain_console(soft_wrap=True)
        title = (
            f"{annotations}: {plan.people:,} people in {plan.num_photos:,} photos, {plan.num_keypoints} "
            "keypoints"
        )
        print_table(plain_console(), title, plan.found)
        print_warnings(plain_console(), plan.found)
        if any(found.counts("stops") for found in plan.found):
            console.print("Correct what is an ERROR before you build shards.")
        console.print(f"written: {', '.join(map(str, written))}\n")
        for sentence in (*expectation(plan), enough_unlabelled(plan), *how_found(plan)):
            console.print(sentence)
        console.print("\nRun these, one after the other:\n")
        for what, command in commands(plan):
            console.print(f"  {command}   # {what}")


if __name__ == "__main__":
    main()
