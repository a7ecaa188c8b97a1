"""Write the dashboards' JSON into the chart.

python -m deploy.dashboards
"""

from deploy.dashboards.files import FOLDER, render


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in render().items():
        (FOLDER / name).write_text(text)
        print(FOLDER / name)


if __name__ == "__main__":
    main()
