"""convscope measures, predicts and explains what a convolutional network learned from its data.

    >>> import convscope
    >>> convscope.report  # doctest: +ELLIPSIS
    <function report at ...>

Everything is imported at first use, so that the command line answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convscope.analyse import read_report as read_report
    from convscope.analyse import report as report
    from convscope.ansatz.agop import PatchAgop as PatchAgop
    from convscope.ansatz.measure import patch_agop as patch_agop
    from convscope.bottleneck.measure import activation_spectrum as activation_spectrum
    from convscope.bottleneck.rank import cbn_rank as cbn_rank
    from convscope.bottleneck.saved import load_compressed as load_compressed
    from convscope.bottleneck.singular import frequency_singular_values as frequency_singular_values
    from convscope.core.errors import ConvscopeError as ConvscopeError
    from convscope.core.moments import patch_moments as patch_moments
    from convscope.dynamics.collect import dataset_structure as dataset_structure
    from convscope.dynamics.monitor import ModeMonitor as ModeMonitor
    from convscope.dynamics.predict import predict_dynamics as predict_dynamics
    from convscope.dynamics.shortcuts.collect import audit_shortcuts as audit_shortcuts
    from convscope.firstlayer.fit import fit_energy_profile as fit_energy_profile
    from convscope.firstlayer.prediction import predict_energy_profile as predict_energy_profile
    from convscope.firstlayer.profile import energy_profile as energy_profile
    from convscope.page.report import Report as Report
    from convscope.rfm.agop import conv_kernel_agop as conv_kernel_agop
    from convscope.rfm.deep import DeepConvRFMClassifier as DeepConvRFMClassifier
    from convscope.rfm.estimators import ConvRFMClassifier as ConvRFMClassifier
    from convscope.rfm.estimators import ConvRFMRegressor as ConvRFMRegressor
    from convscope.rfm.kernels import conv_kernel as conv_kernel

_PUBLIC = {
    "ConvRFMClassifier": "convscope.rfm.estimators",
    "ConvRFMRegressor": "convscope.rfm.estimators",
    "ConvscopeError": "convscope.core.errors",
    "DeepConvRFMClassifier": "convscope.rfm.deep",
    "ModeMonitor": "convscope.dynamics.monitor",
    "PatchAgop": "convscope.ansatz.agop",
    "Report": "convscope.page.report",
    "activation_spectrum": "convscope.bottleneck.measure",
    "audit_shortcuts": "convscope.dynamics.shortcuts.collect",
    "cbn_rank": "convscope.bottleneck.rank",
    "conv_kernel": "convscope.rfm.kernels",
    "conv_kernel_agop": "convscope.rfm.agop",
    "dataset_structure": "convscope.dynamics.collect",
    "energy_profile": "convscope.firstlayer.profile",
    "fit_energy_profile": "convscope.firstlayer.fit",
    "frequency_singular_values": "convscope.bottleneck.singular",
    "load_compressed": "convscope.bottleneck.saved",
    "patch_agop": "convscope.ansatz.measure",
    "patch_moments": "convscope.core.moments",
    "predict_dynamics": "convscope.dynamics.predict",
    "predict_energy_profile": "convscope.firstlayer.prediction",
    "read_report": "convscope.analyse",
    "report": "convscope.analyse",
}
__all__ = [
    "ConvRFMClassifier",
    "ConvRFMRegressor",
    "ConvscopeError",
    "DeepConvRFMClassifier",
    "ModeMonitor",
    "PatchAgop",
    "Report",
    "activation_spectrum",
    "audit_shortcuts",
    "cbn_rank",
    "conv_kernel",
    "conv_kernel_agop",
    "dataset_structure",
    "energy_profile",
    "fit_energy_profile",
    "frequency_singular_values",
    "load_compressed",
    "patch_agop",
    "patch_moments",
    "predict_dynamics",
    "predict_energy_profile",
    "read_report",
    "report",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'convscope' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
