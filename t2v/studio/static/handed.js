// A story that another page hands to the story page.

const PLACE = "t2v handed story"; // of this tab alone

export function toStory(settings) {
  sessionStorage.setItem(PLACE, JSON.stringify(settings));
  location.assign("/story?handed");
}

export function taken() {
  const given = JSON.parse(sessionStorage.getItem(PLACE) ?? "null");
  sessionStorage.removeItem(PLACE);
  return given;
}
