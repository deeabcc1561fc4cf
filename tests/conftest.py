import torch
from hypothesis import settings

# A run is the same run everywhere: fixed examples, and no clock on a busy machine.
settings.register_profile("cfgen", deadline=None, derandomize=True, database=None)
settings.load_profile("cfgen")
torch.set_num_threads(1)
