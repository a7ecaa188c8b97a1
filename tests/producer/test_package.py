import subprocess
import sys


def test_importing_the_producer_or_the_tail_loads_nothing_heavy():
    code = (
        "import sys, producer, producer.cli, producer.play, trunkline.cli, trunkline.tail;"
        "print(sorted({'torch', 'scipy', 'nemo', 'redis', 'worker'} & {name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
