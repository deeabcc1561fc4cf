"""What a derived DICOM object says of its patient: new UIDs, and what describes the picture."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

from pydicom import DataElement, Dataset
from pydicom.uid import generate_uid

# What describes the picture: numbers and coded words of these groups. Text, names, dates and times
# may describe the patient; UIDs are replaced.
KEPT_GROUPS = (0x0008, 0x0018, 0x0020, 0x0028, 0x0054, 0x2050, 0x5200)
KEPT_VRS = ("CS", "DS", "IS", "US", "SS", "UL", "SL", "FL", "FD", "AT")
NEVER_KEPT = ("SpecificCharacterSet", "OtherStudyNumbers")
EMPTY = (
    "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime StudyID "
    "ReferringPhysicianName AccessionNumber SeriesNumber"
).split()


@dataclass(frozen=True)
class Identity:
    """New UIDs, the same for the same UID all through a run; references to the source get them too.

    Attributes:
        secret: What keeps the old UIDs from being found by trial; the same in all processes.
        keep: Keep the source's identity; only the object and its series are new then.
    """

    secret: str
    keep: bool = False

    def replace(self, uid: object) -> str:
        """What stands for a UID of the source."""
        return str(uid) if self.keep else self.new(uid)

    def new(self, *parts: object) -> str:
        """A UID that is new in any case."""
        return generate_uid(entropy_srcs=["\0".join([self.secret, *map(str, parts)])])


def picture_only(source: Dataset, identity: Identity) -> Dataset:
    """Numbers and coded words that describe the picture, in sequences as well."""
    ds = Dataset()
    for element in source:
        group, keyword = element.tag.group, element.keyword
        if group not in KEPT_GROUPS or not keyword or keyword in NEVER_KEPT:
            continue
        if element.VR == "SQ":
            items = [picture_only(item, identity) for item in element.value]
            if any(items):
                ds.add(DataElement(element.tag, "SQ", items))
        elif element.VR == "UI" and group == 0x0020 and element.value:
            ds.add(DataElement(element.tag, "UI", identity.replace(element.value)))
        elif element.VR in KEPT_VRS:
            ds.add(deepcopy(element))
    return ds
