import subprocess
import sys


def test_importing_the_producer_loads_nothing_heavy():
    code = (
        "import sys, producer, producer.cli, producer.play;"
        "print(sorted({'torch', 'scipy', 'nemo', 'redis', 'worker'} & {name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
