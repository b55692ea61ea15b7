"""The public API on one page: choose, load, chat, continue a text, and what a refusal looks like.

python docs/example.py [MODEL]
"""

import sys

import edgeinfer


def main(name: str = "demo") -> None:
    # What would be loaded, and why. This loads nothing and uses no network.
    plan = edgeinfer.choose(edgeinfer.Request(model=name, context=1024))
    print(f"{plan.model.title}, {plan.artifact.tier} on {plan.backend}: {plan.estimate.total_bytes / 1e6:.0f} MB")

    with edgeinfer.load(plan) as model:
        with model.chat(system="You are brief.", sampling=edgeinfer.GREEDY, max_tokens=40) as chat:
            for text in chat.stream("Hi, who are you?"):
                print(text, end="", flush=True)
            print()

            answer = chat.ask("What can you do?")
            print(answer.text)
            stats = answer.stats
            print(f"{stats.reused} of {stats.prompt} prompt tokens were already there; {stats.emitted} new ones")

        # Without a chat template: text or token ids in, what follows out.
        story = model.generate("Once upon a time", sampling=edgeinfer.Sampling(temperature=0.8, seed=1), max_tokens=20)
        print(f"Once upon a time{story.text}".replace("\n", " "))

    # Every refusal is one clear line and a hint.
    try:
        edgeinfer.choose("llama-3.2-8b")
    except edgeinfer.EdgeInferError as error:
        print(f"refused: {error} ({error.hint})")


if __name__ == "__main__":
    main(*sys.argv[1:])
